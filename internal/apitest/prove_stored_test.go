package apitest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/internal/base62"
)

// A stored hash is no credential. Whatever a thief of the database finds there,
// in whatever spelling, opens nothing: nor in a token's clothes.
func TestNothingStoredVerifies(t *testing.T) {
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, program)
			issued := e.issue(func(r *apikey.IssueRequest) { r.IdempotencyKey = "order-1" })
			loot := loot{texts: map[string]bool{}}
			loot.add(reflect.ValueOf(e.everythingStored(issued.Key.ID)))
			loot.add(reflect.ValueOf([]string{issued.Token.String(), issued.Token.Hint(), prefix, issued.Key.Credential.String()}))
			candidates := loot.candidates(issued.Token)
			require.Greater(t, len(candidates), 300)
			require.NoError(t, e.verify(issued.Token)) // from here on it is warm
			cold := e.newVerifier(func(c *verifierConfig) { c.MaxEntries = -1 })
			for _, text := range candidates {
				for _, v := range []*apikey.Verifier{cold, e.verifier} {
					if _, err := v.Verify(t.Context(), text, apikey.Request{AllowPublishable: true}); err != apikey.ErrInvalidToken {
						t.Errorf("%q: %v", text, err)
					}
				}
			}
		})
	}
}

// everythingStored is what a copy of the database holds.
func (e *env) everythingStored(id apikey.KeyID) (all []any) {
	e.t.Helper()
	ctx := context.Background()
	r, err := e.store.Get(ctx, id)
	require.NoError(e.t, err)
	require.NotEmpty(e.t, r.Credentials[0].Hash)
	require.NotEmpty(e.t, r.Credentials[0].Check)
	events, err := e.store.Events(ctx, apikey.StoreEventFilter{})
	require.NoError(e.t, err)
	require.NotEmpty(e.t, events.Events)
	all = append(all, r, events)
	for _, kind := range []apikey.StoreItemKind{"pepper", "quota", "idem"} {
		page, err := e.store.Items(ctx, apikey.StoreItemFilter{Kind: kind})
		require.NoError(e.t, err)
		all = append(all, page)
	}
	return all
}

// What management shows of a key has no part of what is kept of its token.
func TestManagementShowsNoHash(t *testing.T) {
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, program)
			issued := e.issue()
			r, err := e.store.Get(t.Context(), issued.Key.ID)
			require.NoError(t, err)
			var kept detector
			hash := r.Credentials[0].Hash
			kept.learn("hash", []byte(hash[strings.LastIndexByte(hash, '$')+1:]))
			if name == "peppered" { // without, four bytes: too short to be found
				kept.learn("check", r.Credentials[0].Check)
				kept.learn("MAC", r.MAC)
			}
			got, err := e.manager.Get(e.ctx, issued.Key.ID)
			require.NoError(t, err)
			list, err := e.manager.List(e.ctx, apikey.ListRequest{})
			require.NoError(t, err)
			events, err := e.manager.Events(e.ctx, apikey.EventsRequest{})
			require.NoError(t, err)
			key, err := e.verifier.Verify(t.Context(), issued.Token.Reveal(), apikey.Request{})
			require.NoError(t, err)
			for _, shown := range []any{issued, got, list, events, key.Info()} {
				for printing, text := range printings(shown) {
					require.Empty(t, kept.find(text), "%T in %s", shown, printing)
				}
			}
			require.NotEmpty(t, kept.find(fmt.Sprint(r)))
		})
	}
}

// loot is every text that can be made of what was found.
type loot struct{ texts map[string]bool }

func (l loot) add(v reflect.Value) {
	if v.CanInterface() {
		if s, ok := v.Interface().(fmt.Stringer); ok {
			l.texts[s.String()] = true
		}
	}
	switch v.Kind() {
	case reflect.String:
		l.text(v.String())
	case reflect.Interface, reflect.Pointer:
		if !v.IsNil() {
			l.add(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			l.add(v.Field(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			l.add(k)
			l.add(v.MapIndex(k))
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b := make([]byte, v.Len())
			reflect.Copy(reflect.ValueOf(b), v)
			l.bytes(b)
			return
		}
		for i := range v.Len() {
			l.add(v.Index(i))
		}
	}
}

// text adds a text, its parts and what they decode to.
func (l loot) text(s string) {
	l.texts[s] = true
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == '$' || r == ',' || r == '=' }) {
		l.texts[part] = true
		if b, err := base64.RawStdEncoding.DecodeString(part); err == nil {
			l.bytes(b)
		}
	}
}

func (l loot) bytes(b []byte) {
	for _, b := range [][]byte{b, b[min(1, len(b)):]} { // with and without a slot
		l.texts[string(b)] = true
		l.texts[hex.EncodeToString(b)] = true
		l.texts[strings.ToUpper(hex.EncodeToString(b))] = true
		l.texts[base64.StdEncoding.EncodeToString(b)] = true
		l.texts[base64.RawURLEncoding.EncodeToString(b)] = true
		l.texts[fmt.Sprint(b)] = true
		l.texts[new(big.Int).SetBytes(b).Text(62)] = true
	}
}

// candidates are the texts as they are, after a prefix, and as the secret of a
// token that is right in everything else.
func (l loot) candidates(genuine apikey.Token) (list []string) {
	text := genuine.Reveal()
	id := len(text) - bodyWidth + idWidth
	for found := range l.texts {
		list = append(list, found, prefix+"_"+found, text[:len(text)-bodyWidth]+found, text[:id]+found)
		digits := strings.Map(func(r rune) rune {
			if r < 0x80 && base62.Valid(string(r)) {
				return r
			}
			return -1
		}, found)
		padded := (digits + strings.Repeat("0", secretWidth))[:secretWidth]
		for _, tail := range []string{text[id+secretWidth:], "000000000000" + "000000"} {
			list = append(list, recrc(text[:id]+padded+tail))
		}
	}
	return list
}
