package admin_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// between is a store in which something happens after the next key was read.
type between struct {
	apikey.Store
	then atomic.Pointer[func()]
}

func (b *between) Get(ctx context.Context, id apikey.KeyID) (apikey.StoreRecord, error) {
	r, err := b.Store.Get(ctx, id)
	if then := b.then.Swap(nil); then != nil {
		(*then)()
	}
	return r, err
}

// Somebody guesses the version that the program is about to make. Their update must not
// set back what the program writes, in that version, under names that they do not see.
func TestMetadataOfAVersionToCome(t *testing.T) {
	b := &between{}
	e := newEnv(t, func(s *apikey.Settings, _ *apikey.ManagerConfig) { b.Store, s.Store = s.Store, b })
	key := e.issue("acc_1", func(r *apikey.IssueRequest) { r.Metadata = map[string]string{"shop": "7", "risk": "low"} }).Key
	ctx := e.program.Admin("acc_1")
	program := func() {
		_, err := e.program.Manager.Update(ctx, apikey.UpdateRequest{Key: key.ID, Metadata: apikey.Set(map[string]string{"shop": "7", "risk": "high"})})
		require.NoError(t, err)
	}
	b.then.Store(&program)
	a := e.do(request{method: "PATCH", path: "/keys/" + key.ID.String(), body: `{"metadata":{"shop":"8"}}`, header: map[string]string{"If-Match": `"2"`}})
	require.Equal(t, 412, a.status, a.text)
	info, err := e.program.Manager.Get(ctx, key.ID)
	require.NoError(t, err)
	require.Equal(t, "high", info.Metadata.Get("risk"))
	require.Equal(t, "7", info.Metadata.Get("shop"))
}

// The program has lowered its limits since it wrote metadata that is not shown. An update
// of the rest cannot be done, and the answer does not name what is in the way.
func TestHiddenMetadataBeyondTheLimits(t *testing.T) {
	e := newEnv(t)
	key := e.issue("acc_1", func(r *apikey.IssueRequest) { r.Metadata = map[string]string{"shop": "7", "risk": "very high"} }).Key
	lower, c := e.manager, e.config
	lower.Limits.MetadataValue = 5
	c.Manager = must(apikey.NewManager(t.Context(), e.settings, lower))
	patch := func(body string) reply {
		return e.at(e.serve(c), request{method: "PATCH", path: "/keys/" + key.ID.String(), body: body, header: map[string]string{"If-Match": `"1"`}})
	}
	a := patch(`{"metadata":{"shop":"8"}}`)
	require.Equal(t, 500, a.status, a.text)
	require.Equal(t, "internal_error", a.body["code"])
	require.NotContains(t, a.text, "risk")
	require.Contains(t, e.log.String(), "risk", "the operator learns it")
	require.Equal(t, 200, patch(`{"name":"New"}`).status)

	own := e.issue("acc_1").Key // a value that the client sends is named
	a = e.at(e.serve(c), request{method: "PATCH", path: "/keys/" + own.ID.String(), body: `{"metadata":{"shop":"too long"}}`, header: map[string]string{"If-Match": `"1"`}})
	require.Equal(t, 400, a.status, a.text)
	require.Contains(t, a.text, "shop")
}

// A filter of 900 KB is refused before a store compares it with each name, or anything is
// made of each of its parts.
func TestLongFilters(t *testing.T) {
	e := newEnv(t)
	for path, code := range map[string]string{
		"/keys?name_contains=" + strings.Repeat("A", 900_000): "too_long",
		"/keys?name_contains=%ff":                             "not_text",
		"/events?actions=" + strings.Repeat(",", 900_000):     "too_many",
	} {
		a := e.do(request{path: path})
		require.Equal(t, 400, a.status, a.text)
		require.Equal(t, code, a.body["fields"].([]any)[0].(map[string]any)["code"], a.text)
	}
}

// deadlines is a store that notes until when each write may take.
type deadlines struct {
	apikey.Store
	mu    sync.Mutex
	noted map[time.Time]int // nil: not now
}

func (d *deadlines) Apply(ctx context.Context, changes ...apikey.StoreChange) error {
	end, _ := ctx.Deadline()
	d.mu.Lock()
	if d.noted != nil {
		d.noted[end]++
	}
	d.mu.Unlock()
	return d.Store.Apply(ctx, changes...)
}

// All keys of one request have one time: with a store that hangs, a thousand keys with a
// time of their own would take hours.
func TestKeysOfOneRequestShareItsTime(t *testing.T) {
	d := &deadlines{}
	e := newEnv(t, func(s *apikey.Settings, _ *apikey.ManagerConfig) { d.Store, s.Store = s.Store, d })
	for path, body := range map[string]any{"/keys/revoke-all": map[string]any{"all": true}, "/keys/revoke": nil} {
		var ids []string
		d.noted = nil
		for range 3 {
			ids = append(ids, e.issue("acc_1").Key.ID.String())
		}
		if body == nil {
			body = map[string]any{"ids": ids}
		}
		d.noted = map[time.Time]int{}
		require.Equal(t, 200, e.post(path, body).status)
		require.Len(t, d.noted, 1, path)
		for end, writes := range d.noted {
			require.Equal(t, 3, writes, path)
			require.WithinRange(t, end, time.Now(), time.Now().Add(20*time.Second))
		}
	}
}
