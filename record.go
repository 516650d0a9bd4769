package apikey

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// clone copies a record so that a job can edit it. The bytes inside its credentials are
// shared, because nobody changes them in place.
func (r StoreRecord) clone() StoreRecord {
	r.MAC = slices.Clone(r.MAC)
	r.Abilities = slices.Clone(r.Abilities)
	r.Networks = slices.Clone(r.Networks)
	r.Origins = slices.Clone(r.Origins)
	r.Metadata = maps.Clone(r.Metadata)
	r.Credentials = slices.Clone(r.Credentials)
	return r
}

// credential returns the credential with this ID, nil if the record does not list it.
func (r *StoreRecord) credential(id CredentialID) *StoreCredential {
	for i := range r.Credentials {
		if r.Credentials[i].ID == id {
			return &r.Credentials[i]
		}
	}
	return nil
}

// works reports whether the key works at now. The limit of live keys counts such keys.
func (r *StoreRecord) works(now time.Time) bool {
	return r.State() == Active && (r.ExpiresAt.IsZero() || now.Before(r.ExpiresAt))
}

// current returns the newest credential that is valid now. If none is valid, it returns
// the newest.
func (r *StoreRecord) current(now time.Time) CredentialID {
	for _, c := range r.Credentials {
		if !c.Ended && !now.Before(c.NotBefore) && (c.NotAfter.IsZero() || now.Before(c.NotAfter)) {
			return c.ID
		}
	}
	if len(r.Credentials) > 0 {
		return r.Credentials[0].ID
	}
	return CredentialID{}
}

// describe makes the Info of a record. The Info shares the record's slices, so the
// record must not be changed afterwards. Abilities of an unknown form are left out: a
// record that has one is never believed, only shown.
func (c *core) describe(r *StoreRecord, presented CredentialID) Info {
	list, _ := c.abilities(r.Abilities)
	info := describe(r, presented, list.held)
	info.RotateDue = shownTime(r.due(c.skew))
	return info
}

func describe(r *StoreRecord, presented CredentialID, abilities []Ability) Info {
	info := Info{
		ID: r.ID, Name: r.Name, Credential: presented, Account: r.Account, Mode: r.Mode, Kind: r.Kind,
		State: r.State(), Recoverable: r.Recoverable, Version: r.Version, Metadata: metadataOf(r.Metadata),
		Abilities: viewOf(abilities), Networks: viewOf(r.Networks), Origins: viewOf(r.Origins),
		CreatedAt: shownTime(r.CreatedAt), ExpiresAt: shownTime(r.ExpiresAt), RevokedAt: shownTime(r.RevokedAt),
		RevokeReason: r.RevokeReason, RotateMonths: r.RotateMonths, RotateDue: shownTime(r.due(0)),
	}
	for _, cred := range r.Credentials {
		if cred.LastUsed.After(info.LastUsed) {
			info.LastUsed = shownTime(cred.LastUsed)
		}
	}
	return info
}

// describeAll is describe for management: with the list of credentials, and the current
// one in Credential.
func (c *core) describeAll(r *StoreRecord, now time.Time) Info {
	info := c.describe(r, r.current(now))
	for _, cred := range r.Credentials {
		ci := CredentialInfo{
			ID: cred.ID, Hint: cred.Hint, NotBefore: shownTime(cred.NotBefore), NotAfter: shownTime(cred.NotAfter),
			LastUsed: shownTime(cred.LastUsed), Ended: cred.Ended, Pepper: cred.Pepper,
		}
		if cred.Public != "" {
			ci.Public = newToken(cred.Public)
		}
		info.Credentials.s = append(info.Credentials.s, ci)
	}
	return info
}

// recordOf is describeAll the other way round. The record has no hashes and no MAC, which
// an Info does not have either, so it is never believed and never written.
func recordOf(k Info) StoreRecord {
	r := StoreRecord{
		ID: k.ID, Name: k.Name, Account: k.Account, Mode: k.Mode, Kind: k.Kind, Version: k.Version,
		Networks: k.Networks.s, Origins: k.Origins.s, Metadata: k.Metadata.m,
		Disabled: k.State == Suspended, RevokeReason: k.RevokeReason, RotateMonths: k.RotateMonths, Recoverable: k.Recoverable,
		CreatedAt: k.CreatedAt, ExpiresAt: k.ExpiresAt, RevokedAt: k.RevokedAt, RotateDue: k.RotateDue,
	}
	for a := range k.Abilities.All() {
		text := "" // of a nil Ability: no form reads it
		if a != nil {
			text = a.String()
		}
		r.Abilities = append(r.Abilities, text)
	}
	for c := range k.Credentials.All() {
		r.Credentials = append(r.Credentials, StoreCredential{
			ID: c.ID, Hint: c.Hint, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
			LastUsed: c.LastUsed, Ended: c.Ended, Pepper: c.Pepper, Public: c.Public.Reveal(),
		})
	}
	return r
}

const (
	maxForms  = 4096
	maxShared = 64 // abilities in a list: a row may hold any number
)

// abilities reads a record's abilities. If some have an unknown form, they are left out
// and all is false. The list is shared: read only.
func (c *core) abilities(texts []string) (list *abilities, all bool) {
	var buf [8 * (1 + maxAbility)]byte
	key := buf[:0]
	// A form of the program's own may answer differently tomorrow: its list is not shared.
	shared := len(texts) <= maxShared && c.settings.Catalog.forms() == 0
	for _, text := range texts {
		shared = shared && len(text) <= maxAbility
		key = append(key, byte(len(text))) // length first: one text never reads as two
		key = append(key, text...)
	}
	if shared {
		c.forms.mu.RLock()
		list, all = c.forms.lists[string(key)]
		c.forms.mu.RUnlock()
		if all {
			return list, true
		}
	}
	list, all = &abilities{held: make([]Ability, 0, len(texts))}, true
	for _, text := range texts {
		a, err := c.settings.Catalog.parseForm(strings.Clone(text)) // else a larger text is kept
		if err != nil {
			all = false
			continue
		}
		list.held = append(list.held, a)
	}
	list.held = slices.Clip(list.held)
	if shared && all {
		c.forms.mu.Lock()
		if len(c.forms.lists) < maxForms {
			list.shared = true
			c.forms.lists[string(key)] = list
		}
		c.forms.mu.Unlock()
	}
	return list, all
}

// boundTimes brings the times of a record that is about to be written into the years
// that stores take. Otherwise, if a key has another time since an earlier version, it
// could not even be revoked.
func (r *StoreRecord) boundTimes() {
	times := []*time.Time{&r.CreatedAt, &r.ExpiresAt, &r.RevokedAt, &r.RotateDue}
	for i := range r.Credentials {
		c := &r.Credentials[i]
		times = append(times, &c.NotBefore, &c.NotAfter, &c.LastUsed)
	}
	for _, t := range times {
		*t = shownTime(*t)
	}
}
