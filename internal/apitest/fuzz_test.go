package apitest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// Whatever parses is the text that it was, and its parts write it again.
func FuzzToken(f *testing.F) {
	good := "acme_sk_live_0fnhLPMkMgQqLbvDmOH4Wz0123456789ABCDEFGHIJKLMNOPQRSTUVWA0BCDEFGHIJK1RFCOj"
	for _, text := range []string{good, good[1:], good + "0", strings.ToUpper(good), "_" + good, good[:len(good)-6]} {
		f.Add(text)
	}
	for _, text := range hostile {
		f.Add(text[:min(len(text), 300)])
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, text := range []string{text, resealed(text)} { // the CRC would stop nearly all
			token, err := apikey.ParseToken(text)
			if err != nil {
				require.Equal(t, apikey.ErrInvalidToken, err)
				require.True(t, token.IsZero())
				require.Contains(t, []apikey.Mode{0, apikey.Live, apikey.Test}, apikey.ClaimedMode(text))
				continue
			}
			require.Equal(t, text, token.Reveal())
			require.Equal(t, token.Mode(), apikey.ClaimedMode(text))
			kinds := map[apikey.Kind]string{apikey.Secret: "_sk_", apikey.Publishable: "_pk_"}
			modes := map[apikey.Mode]string{apikey.Live: "live_", apikey.Test: "test_"}
			rest, ok := strings.CutSuffix(text[:len(text)-bodyWidth], kinds[token.Kind()]+modes[token.Mode()])
			require.True(t, ok, text)
			require.Regexp(t, `^[a-z0-9_]{1,20}$`, rest)
			require.Equal(t, token.Credential().String(), text[len(text)-bodyWidth:][:idWidth])
			require.Equal(t, text, recrc(text))
			require.Regexp(t, `^[0-9A-Za-z]{73}$`, text[len(text)-bodyWidth:])
			require.NotContains(t, token.String(), secretOf(text))
		}
	})
}

// resealed gives a text a right checksum.
func resealed(text string) string {
	if len(text) < crcWidth {
		return text
	}
	return recrc(text)
}

// A stored hash names its own cost: whatever it says, reading it is cheap, and
// it is damage or the hash of some secret, never a panic.
func FuzzPHC(f *testing.F) {
	for _, encoded := range []string{
		"$argon2id$v=19$m=7168,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$1NRxajf7ati0l5NUY38kzrDiprZXRoCYwZCLlWktDXE",
		"$argon2id$v=19$m=4294967295,t=4294967295,p=255$MDEyMzQ1Njc4OWFiY2RlZg$1NRxajf7ati0l5NUY38kzrDiprZXRoCYwZCLlWktDXE",
		"$argon2id$v=19$m=8,t=1,p=4$MDEyMzQ1Njc4OWFiY2RlZg$1NRxajf7ati0l5NUY38kzrDiprZXRoCYwZCLlWktDXE",
		"$hmac-sha256$7$lw9anl8F8+Ws1UI0jfla11vlu62M/wtf+wRDhXu9oyQ", "$hmac-sha256$61$", "$$$$$", "",
	} {
		f.Add(encoded)
	}
	argon, err := apikey.NewArgon2id(apikey.Argon2idConfig{Memory: 7168, MaxMemory: 7168})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, encoded string) {
		keyed := hmacHasher(t, pepper(t, 7))
		for _, h := range []apikey.Hasher{argon, keyed} {
			ok, err := h.Verify(context.Background(), encoded, []byte("a secret that made none of them"))
			require.False(t, ok, encoded)
			if err != nil {
				require.ErrorIs(t, err, apikey.ErrCorrupt, encoded)
			} else {
				require.True(t, strings.HasPrefix(encoded, "$"+h.Name()+"$"), encoded)
			}
			if h.Outdated(encoded) {
				require.Equal(t, argon, h)
				require.False(t, keyed.Outdated(encoded))
			}
		}
	})
}

// Whatever parses as an ability prints the same text again, and allows itself.
func FuzzAbility(f *testing.F) {
	for _, text := range []string{"payment:refund", "payment:*", "balance=read", "region/id", "*", "a::b", "a=b=c", "=read", "yes/yes", "\x00:\xff"} {
		f.Add(text, "payment:refund")
	}
	c := apikey.MustCatalog(append(catalog.Entries(), apikey.CatalogEntry{Parse: parseRegion})...)
	f.Fuzz(func(t *testing.T, text, other string) {
		var parsed []apikey.Ability
		if s, err := apikey.ParseScope(text); err == nil {
			parsed = append(parsed, s)
		}
		if a, err := apikey.ParseAccess(text); err == nil {
			parsed = append(parsed, a)
		}
		if a, err := c.Parse(text); err == nil {
			parsed = append(parsed, a)
		} else {
			require.ErrorIs(t, err, apikey.ErrInvalid)
			require.Less(t, len(err.Error()), 1000)
		}
		for _, a := range parsed {
			require.Equal(t, text, a.String())
			require.LessOrEqual(t, len(text), 100)
			require.True(t, a.Allows(a), text)
			require.False(t, a.Allows(nil), text)
			b, err := apikey.ParseScope(other)
			scope, is := a.(apikey.Scope)
			if err == nil && is && scope.Allows(b) && b.Allows(scope) {
				require.Equal(t, text, other, "only equals allow each other")
			}
		}
	})
}

// Whatever reads as an Info or an Event is written again, and is then the same text for
// ever. Nothing that reads makes an Operator.
func FuzzAnswerJSON(f *testing.F) {
	for _, text := range []string{
		`{"id":"01890a5d-ac96-774b-bcce-b302099a8057","mode":"live","abilities":["payment:*","balance=read","region/id"],"metadata":{"a":"1"}}`,
		`{"networks":["203.0.113.7/24",""],"origins":null,"expires_at":"9999-12-31T23:59:59-12:00","credentials":[{"public":"x…"},null]}`,
		`{"seq":18446744073709551615,"actor":{"id":"ops","operator":true},"changed":[]}`, `{"ABILITIES":[null]}`, `null`, `[]`, "{\"name\":\"\xff\"}",
	} {
		f.Add([]byte(text))
	}
	c := apikey.MustCatalog(append(catalog.Entries(), apikey.CatalogEntry{Parse: parseRegion})...)
	f.Fuzz(func(t *testing.T, text []byte) {
		if info, err := c.ParseInfo(text); err == nil {
			first, err := json.Marshal(info)
			require.NoError(t, err)
			info, err = c.ParseInfo(first)
			require.NoError(t, err, "%s", first)
			again, err := json.Marshal(info)
			require.NoError(t, err)
			require.Equal(t, string(first), string(again))
		}
		var ev apikey.Event
		if json.Unmarshal(text, &ev) == nil {
			require.False(t, ev.Actor.IsOperator())
			first, err := json.Marshal(ev)
			require.NoError(t, err)
			var back apikey.Event
			require.NoError(t, json.Unmarshal(first, &back), "%s", first)
			again, err := json.Marshal(back)
			require.NoError(t, err)
			require.Equal(t, string(first), string(again))
		}
	})
}

// A cursor comes back from a browser. Its seal is no secret, so what is inside
// may be anything too: it is refused, or it is a page of the actor's account.
func FuzzCursor(f *testing.F) {
	position := strings.Repeat("A", 32)
	for _, cursor := range []string{"", ".", "k" + position, "e" + position, "f" + position, "c" + position, "k__________" + position[10:], "AAAAAAAAAAAA.k" + position, "'; DROP TABLE keys; --", "\x00", strings.Repeat("k", 300)} {
		f.Add(cursor)
	}
	f.Fuzz(func(t *testing.T, cursor string) {
		inside := &inserting{}
		e := newEnv(t, func(e *env) { inside.Store, e.store = e.store, inside })
		stranger := apikey.WithActor(context.Background(), apikey.Actor{ID: "usr_2", Account: "acc_2", Role: "admin"})
		for _, ctx := range []context.Context{e.ctx, stranger, e.ctx, stranger} {
			_, err := e.manager.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
			require.NoError(t, err)
		}
		inside.next = apikey.Cursor(cursor)
		keys, err := e.manager.List(e.ctx, apikey.ListRequest{Limit: 1})
		require.NoError(t, err)
		events, err := e.manager.Events(e.ctx, apikey.EventsRequest{Limit: 1})
		require.NoError(t, err)
		inside.next = ""
		for _, c := range []apikey.Cursor{apikey.Cursor(cursor), keys.Next, events.Next} {
			list, err := e.manager.List(e.ctx, apikey.ListRequest{Limit: 1, Cursor: c})
			require.True(t, err == nil || errors.Is(err, apikey.ErrInvalid), "%v", err)
			require.LessOrEqual(t, len(list.Keys), 1)
			for _, key := range list.Keys {
				require.Equal(t, "acc_1", key.Account)
			}
			log, err := e.manager.Events(e.ctx, apikey.EventsRequest{Limit: 1, Cursor: c})
			require.True(t, err == nil || errors.Is(err, apikey.ErrInvalid), "%v", err)
			require.LessOrEqual(t, len(log.Events), 1)
			for _, event := range log.Events {
				require.Equal(t, "acc_1", event.Account)
			}
			_, err = e.manager.List(e.ctx, apikey.ListRequest{Limit: 1, Mode: apikey.Live, Cursor: c})
			require.Equal(t, c != "", errors.Is(err, apikey.ErrInvalid), "a cursor of another filter")
		}
	})
}

// inserting is a Store whose pages end with a cursor of somebody's choice, so
// that the Manager seals it.
type inserting struct {
	apikey.Store
	next apikey.Cursor
}

func (s *inserting) List(ctx context.Context, f apikey.StoreFilter) (apikey.StorePage, error) {
	page, err := s.Store.List(ctx, f)
	if s.next != "" {
		page.Next = s.next
	}
	return page, err
}

func (s *inserting) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	page, err := s.Store.Events(ctx, f)
	if s.next != "" {
		page.Next = s.next
	}
	return page, err
}

// Whatever a database writer does to the body of an event, with or without its
// hash: the log can still be read and shown, and the chain does not hold.
func FuzzEvent(f *testing.F) {
	zeroTime := []byte{0xFF, 0x23, 0x40, 0x01, 0x00, 0xD4, 0x40, 0x00}
	f.Add(uint8(0), uint16(0), uint16(0), []byte{}, false)                                      // as it is
	f.Add(uint8(1), uint16(0), uint16(9999), []byte{}, true)                                    // empty
	f.Add(uint8(1), uint16(7), uint16(1), []byte{2}, true)                                      // another version
	f.Add(uint8(0), uint16(15), uint16(1), []byte{0}, true)                                     // made without a pepper
	f.Add(uint8(2), uint16(15), uint16(1), []byte{9}, false)                                    // with one that is gone
	f.Add(uint8(1), uint16(64), uint16(8), zeroTime, false)                                     // the zero time, spelled otherwise
	f.Add(uint8(1), uint16(64), uint16(8), []byte{0x7F, 255, 255, 255, 255, 255, 255, 0}, true) // the year 294246
	f.Add(uint8(2), uint16(72), uint16(8), bytes.Repeat([]byte{255}, 8), false)                 // a length beyond all
	f.Add(uint8(1), uint16(197), uint16(5), []byte("staff"), false)                             // the actor's role
	f.Add(uint8(1), uint16(9999), uint16(0), []byte{0}, true)                                   // appended
	f.Fuzz(func(t *testing.T, which uint8, at, cut uint16, put []byte, rehash bool) {
		forged := &forging{}
		e := newEnv(t, func(e *env) { forged.Store, e.store = e.store, forged })
		key := e.issue().Key.ID
		for _, name := range []string{"a", "b"} {
			_, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key, Name: apikey.Set(name)})
			require.NoError(t, err)
		}
		changed := false
		forged.edit = func(r *apikey.StoreEvent) {
			if r.Seq != uint64(which%3)+1 {
				return
			}
			from := min(int(at), len(r.Body))
			body := slices.Concat(r.Body[:from], put, r.Body[min(from+int(cut), len(r.Body)):])
			changed = !bytes.Equal(body, r.Body)
			if r.Body = body; rehash && changed {
				r.Hash = sha256.Sum256(append([]byte("apikey event v1\x00"), body...))
			}
		}
		report, err := e.manager.VerifyEvents(e.ctx, key)
		require.NoError(t, err)
		require.Equal(t, changed, report.Broken != nil || report.Unverifiable > 0, "%+v", report)
		require.False(t, rehash && changed && report.Broken == nil, "another hash never holds: %+v", report)

		list, err := e.manager.Events(e.ctx, apikey.EventsRequest{Key: key})
		require.NoError(t, err)
		require.Len(t, list.Events, 3)
		_, err = json.Marshal(list)
		require.NoError(t, err, "one damaged event must not keep the page from being shown")
	})
}

// One event, one body: a second spelling of a time is no event of ours, and is
// shown by its columns.
func TestTimesOfEventsHaveOneSpelling(t *testing.T) {
	const at = 8 + 8 + 32 + 16 // version, slot, previous hash, ID
	for name, micros := range map[string]int64{
		"zero, spelled out": -62135596800000000, "year 0": -62135596800000001, "year 10000": 253402300800000000, "the last there is": 1<<63 - 1,
	} {
		forged := &forging{}
		e := newEnv(t, func(e *env) { forged.Store, e.store = e.store, forged })
		issued := e.issue()
		list, err := e.manager.Events(e.ctx, apikey.EventsRequest{Key: issued.Key.ID})
		require.NoError(t, err)
		require.Equal(t, apikey.OutcomeDone, list.Events[0].Outcome)
		forged.edit = func(r *apikey.StoreEvent) { binary.BigEndian.PutUint64(r.Body[at:], uint64(micros)) }
		list, err = e.manager.Events(e.ctx, apikey.EventsRequest{Key: issued.Key.ID})
		require.NoError(t, err)
		require.Equal(t, apikey.OutcomeUnreadable, list.Events[0].Outcome, name)
		require.Equal(t, issued.Key.CreatedAt, list.Events[0].Time, name)
	}
}

// forging is a Store that somebody writes to behind the library's back.
type forging struct {
	apikey.Store
	edit func(*apikey.StoreEvent)
}

func (s *forging) Events(ctx context.Context, f apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	page, err := s.Store.Events(ctx, f)
	for i := range page.Events {
		if s.edit != nil {
			s.edit(&page.Events[i])
		}
	}
	return page, err
}
