package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

// What TestStoresAgree asks for: records, items, upkeep and lists.

func (w *world) account() string { return fmt.Sprint("acc_", w.rng.IntN(20)) }

func (w *world) credential(hash string) apikey.StoreCredential {
	c := apikey.StoreCredential{ID: w.id(), Hash: hash, Check: []byte{0, 1, 2, 3, 4}, Hint: one(w, "abcd", "efgh"), Pepper: uint8(w.rng.IntN(3))}
	if w.rng.IntN(2) == 0 {
		c.Sealed, c.SealedKEK = []byte("sealed 1"), one(w, "kek", "KEK", "kek2")
	}
	return c
}

func (w *world) create() operation {
	at := w.tick()
	r := apikey.StoreRecord{
		ID: w.id(), Account: w.account(), Name: fmt.Sprint("Key ", w.rng.IntN(1000)), Mode: apikey.Live, Kind: apikey.Secret,
		Version: 1, Abilities: abilities[:w.rng.IntN(4)], CreatedAt: at, MAC: one(w, nil, []byte{1, 2}, []byte{2, 1}),
		Credentials: []apikey.StoreCredential{w.credential("$h$1")},
	}
	if w.rng.IntN(2) == 0 {
		r.Mode, r.Networks, r.ExpiresAt = apikey.Test, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, at.Add(time.Hour)
		r.Metadata, r.Origins, r.Recoverable = map[string]string{"b": "1", "a": "<&>"}, []string{"https://shop.example"}, true
	}
	return w.commit("create", r)
}

func (w *world) update() operation {
	r := w.some()
	if r.Version == 0 {
		return w.create()
	}
	r.Credentials = slices.Clone(r.Credentials)
	r.Version++
	switch w.rng.IntN(7) {
	case 0:
		r.Name = fmt.Sprint("Key ", w.rng.IntN(1000))
	case 1:
		r.Disabled = !r.Disabled
	case 2:
		r.RevokedAt, r.RevokeReason = w.tick(), apikey.ReasonUnused
	case 3:
		if len(r.Credentials) < 3 {
			r.Credentials = append([]apikey.StoreCredential{w.credential("$h$2")}, r.Credentials...)
		}
	case 4:
		r.Credentials[len(r.Credentials)-1].Ended = true
	case 5:
		r.RotateMonths, r.RotateDue = 6, w.now.Add(time.Duration(w.rng.IntN(1000))*time.Second)
	case 6: // somebody was faster, or a version is missing
		r.Version += uint64(w.rng.IntN(3)) * 2
		r.Version -= 1
		return operation{"conflicting update", w.apply(w.change(r)), nil}
	}
	return w.commit("update", r)
}

// commit applies a record, sometimes with an item, as redeeming a grant does.
func (w *world) commit(name string, r apikey.StoreRecord) operation {
	c := w.change(r)
	if w.rng.IntN(4) == 0 {
		name += " with an item"
		c.Items = []apikey.StoreItem{w.edited()}
	}
	return operation{name, w.apply(c), func() {
		if i := slices.IndexFunc(w.records, func(k apikey.StoreRecord) bool { return k.ID == r.ID }); i < 0 {
			w.records = append(w.records, r)
		} else {
			w.records[i] = r
		}
		w.learn(c)
	}}
}

func (w *world) change(r apikey.StoreRecord) apikey.StoreChange {
	id := w.id()
	r.Head = [32]byte(append(id[:], id[:]...))
	return apikey.StoreChange{ID: id, Record: &r, Event: &apikey.StoreEvent{
		ID: id, Time: w.tick(), Account: r.Account, Mode: r.Mode, Key: r.ID, Seq: r.Version, Actor: one(w, actors...), Action: one(w, whatDone...), Body: []byte{1}, Hash: r.Head,
	}}
}

// item is a change of items alone: a challenge put, an attempt charged, a key
// provisioned, a request remembered; with an event or without.
func (w *world) item() operation {
	c := apikey.StoreChange{ID: w.id()}
	for range 1 + w.rng.IntN(2) {
		c.Items = append(c.Items, w.edited())
	}
	if w.rng.IntN(3) > 0 {
		c.Event = &apikey.StoreEvent{ID: c.ID, Time: w.tick(), Account: w.account(), Mode: apikey.Live, Actor: one(w, actors...), Action: "challenge.confirm", Body: []byte{2}}
	}
	return operation{"item", w.apply(c), func() { w.learn(c) }}
}

// edited is the next version of an item, most of the time.
func (w *world) edited() apikey.StoreItem {
	it := apikey.StoreItem{
		Kind: one(w, itemKinds...), ID: one(w, "1", "2", "a", "A", "a ", "ä"),
		SealedKEK: one(w, "", "kek", "KEK", "kek2"), Data: []byte(one(w, "", "one", "two\x00")),
	}
	if at := w.find(it); at >= 0 {
		it.Version = w.items[at].Version
		it.Delete = w.rng.IntN(3) == 0
	}
	it.Version++
	if w.rng.IntN(6) == 0 { // somebody was faster, or a version is missing
		it.Version += uint64(w.rng.IntN(2))*2 - 1
		it.Version = max(it.Version, 1)
	}
	if w.rng.IntN(3) > 0 { // some of which have expired already: a store never judges that
		it.ExpiresAt = w.now.Add(time.Duration(w.rng.IntN(7200)-3600) * time.Second)
	}
	return it
}

var itemKinds = []apikey.StoreItemKind{"challenge", "grant", "budget", "provision", "idem"}

func (w *world) find(it apikey.StoreItem) int {
	return slices.IndexFunc(w.items, func(k apikey.StoreItem) bool { return k.Kind == it.Kind && k.ID == it.ID })
}

// learn takes over what a change has done.
func (w *world) learn(c apikey.StoreChange) {
	if c.Event != nil { // one without is never found again
		if w.changes = append(w.changes, c); len(w.changes) > 100 {
			w.changes = w.changes[1:]
		}
	}
	for _, it := range c.Items {
		switch at := w.find(it); {
		case it.Delete && at < 0: // there was none, and a deletion as version 1 says so
		case it.Delete:
			w.items = slices.Delete(w.items, at, at+1)
			w.deleted++
		case at < 0:
			w.items = append(w.items, it)
		default:
			w.items[at] = it
		}
	}
}

// page reads items: one, or pages of a kind, or those of other KEKs.
func (w *world) page() operation {
	f := apikey.StoreItemFilter{Kind: one(w, itemKinds...), ID: one(w, "", "", "a", "A"), SealedKEKNot: one(w, "", "kek", "none"), Limit: 1 + w.rng.IntN(4)}
	return operation{"items", func(i int) string {
		return pages(func(after string) (string, string) {
			f := f
			f.After = after
			p, err := w.stores[i].Items(background, f)
			return said(p.Items, err), p.Next
		})
	}, nil}
}

// upkeep swaps columns of up to three credentials; the old value is often
// another one.
func (w *world) upkeep() operation {
	var batch []apikey.StoreUpkeep
	for range 1 + w.rng.IntN(3) {
		r := w.some()
		up := apikey.StoreUpkeep{Credential: r.Credentials[w.rng.IntN(len(r.Credentials))].ID}
		if w.rng.IntN(2) == 0 {
			up.LastUsed = w.tick().Add(-time.Duration(w.rng.IntN(60)) * time.Second)
		}
		if w.rng.IntN(2) == 0 {
			up.OldHash, up.NewHash, up.NewCheck = fmt.Sprint("$h$", w.rng.IntN(4)), fmt.Sprint("$h$", w.rng.IntN(4)), []byte{1, 2}
		}
		if w.rng.IntN(2) == 0 {
			up.OldSealed, up.NewSealed, up.NewKEK = one(w, nil, []byte("sealed 1"), []byte("sealed 2")), one(w, []byte("sealed 1"), []byte("sealed 2")), one(w, "kek", "kek2")
		}
		batch = append(batch, up)
	}
	return operation{"upkeep", func(i int) string { return said(accepted, w.stores[i].Upkeep(background, batch)) }, nil}
}

func (w *world) list() operation {
	f := apikey.StoreFilter{Limit: 1 + w.rng.IntN(20)}
	if w.rng.IntN(4) > 0 {
		f.Account = w.account()
	}
	switch w.rng.IntN(12) {
	case 0:
		f.Mode = apikey.Live
	case 1:
		f.State = apikey.State(1 + w.rng.IntN(3))
	case 2:
		f.NeverUsed = true
	case 3:
		f.UnusedSince = w.now.Add(-time.Hour)
	case 4:
		f.ExpiringBefore = w.now
	case 5:
		if f.Account != "" {
			f.NameContains = fmt.Sprint(w.rng.IntN(10))
		}
	case 6:
		f.NotExpiredAt = w.now
	case 7:
		f.DueBefore = w.now
	case 8:
		f.Pepper = uint8(1 + w.rng.IntN(2))
	case 9:
		f.OtherMAC = uint8(1 + w.rng.IntN(2))
	case 10:
		f.Untagged = true
	case 11:
		f.SealedKEKNot = one(w, "kek", "KEK")
	}
	return operation{"list", func(i int) string {
		return pages(func(after apikey.Cursor) (string, apikey.Cursor) {
			f := f
			f.After = after
			p, err := w.stores[i].List(background, f)
			return said(p.Records, err), p.Next
		})
	}, nil}
}
