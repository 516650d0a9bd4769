package admin_test

import (
	"context"
	"sync/atomic"
	"testing"

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
