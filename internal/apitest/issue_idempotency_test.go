package apitest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

func TestIdempotency(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		e.clock.move(-789 * time.Nanosecond) // to a whole microsecond
		req := apikey.IssueRequest{
			Mode: apikey.Live, Name: "shop", Abilities: []string{"payment:refund"}, IdempotencyKey: "order 7",
			Networks: nets("10.0.0.0/8"), Origins: []string{"https://shop.example"}, Metadata: map[string]string{"a": "b"},
			ExpiresAt: e.clock.now().Add(48 * time.Hour), RotateMonths: 3,
		}
		first, err := e.manager.Issue(e.ctx, req)
		require.NoError(t, err)

		again, err := e.manager.Issue(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrAlreadyIssued)
		require.Equal(t, first.Key.ID, again.Key.ID)
		require.True(t, again.Token.IsZero(), "never a secret twice")
		require.NoError(t, e.manager.Revoke(e.ctx, apikey.RevokeRequest{Key: first.Key.ID}))
		again, err = e.manager.Issue(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrAlreadyIssued)
		require.Equal(t, apikey.Revoked, again.Key.State, "as it is now")

		for name, change := range map[string]func(*apikey.IssueRequest){
			"name":                     func(r *apikey.IssueRequest) { r.Name = "other" },
			"kind":                     func(r *apikey.IssueRequest) { r.Kind, r.Abilities = apikey.Publishable, nil },
			"abilities":                func(r *apikey.IssueRequest) { r.Abilities = []string{"payment:verify"} },
			"expiry":                   func(r *apikey.IssueRequest) { r.ExpiresAt = r.ExpiresAt.Add(time.Second) },
			"networks":                 func(r *apikey.IssueRequest) { r.Networks = nil },
			"origins":                  func(r *apikey.IssueRequest) { r.Origins = nil },
			"metadata":                 func(r *apikey.IssueRequest) { r.Metadata = map[string]string{"a": "c"} },
			"months":                   func(r *apikey.IssueRequest) { r.RotateMonths = 6 },
			"disabled":                 func(r *apikey.IssueRequest) { r.Disabled = true },
			"fields that run together": func(r *apikey.IssueRequest) { r.Name, r.Abilities = "shopp", []string{"ayment:refund"} },
		} {
			other := req
			change(&other)
			issued, err := e.manager.Issue(e.ctx, other)
			require.ErrorIs(t, err, apikey.ErrIdempotencyMismatch, name)
			require.Zero(t, issued, name)
		}
		for name, other := range map[string]func() error{
			"mode":    func() error { r := req; r.Mode = apikey.Test; _, err := e.manager.Issue(e.ctx, r); return err },
			"account": func() error { _, err := e.manager.Issue(as("acc_2", "admin"), req); return err },
			"none":    func() error { r := req; r.IdempotencyKey = ""; _, err := e.manager.Issue(e.ctx, r); return err },
			"key":     func() error { r := req; r.IdempotencyKey += " "; _, err := e.manager.Issue(e.ctx, r); return err },
		} {
			require.NoError(t, other(), "another %s is another request", name)
		}
		e.clock.move(24*time.Hour - time.Microsecond)
		_, err = e.manager.Issue(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrAlreadyIssued)
		e.clock.move(time.Microsecond)
		later, err := e.manager.Issue(e.ctx, req)
		require.NoError(t, err)
		require.NotEqual(t, first.Key.ID, later.Key.ID)
		_, err = e.manager.Issue(e.ctx, req)
		require.ErrorIs(t, err, apikey.ErrAlreadyIssued)
	})
}

// Thirty-two callers repeat one request at once: one key, one secret.
func TestIdempotencyUnderRacing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p))
		p.meet(32)
		req := apikey.IssueRequest{Mode: apikey.Live, IdempotencyKey: "order 7"}
		issued := make([]apikey.Issued, 32)
		errs := together(32, func(i int) (err error) {
			issued[i], err = e.manager.Issue(e.ctx, req)
			return err
		})
		require.Equal(t, 1, count(errs, nil), errs)
		require.Equal(t, 31, count(errs, apikey.ErrAlreadyIssued), errs)
		list, err := e.manager.List(e.ctx, apikey.ListRequest{})
		require.NoError(t, err)
		require.Len(t, list.Keys, 1)
		for i, got := range issued {
			require.Equal(t, list.Keys[0].ID, got.Key.ID)
			require.Equal(t, errs[i] != nil, got.Token.IsZero(), "only who made it has the secret")
			if errs[i] == nil {
				require.NoError(t, e.verify(got.Token))
			}
		}
	})
}

// An Issue that loses its race sixteen times says so; one that wins at last has
// hashed its secret once.
func TestIssueAfterConflicts(t *testing.T) {
	t.Parallel()
	for conflicts, want := range map[int]error{15: nil, 16: apikey.ErrConflict} {
		var p *proxy
		hashes := &hashCounter{}
		e := newEnv(t, through(&p), func(e *env) {
			hashes.Hasher = e.settings.Hashers[0]
			e.settings.Hashers = []apikey.Hasher{hashes}
		})
		left := conflicts
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, _ []apikey.StoreChange) error {
				if left--; left >= 0 {
					return apikey.ErrConflict
				}
				return next()
			}
		})
		issued, err := e.manager.Issue(e.ctx, apikey.IssueRequest{Mode: apikey.Live})
		require.ErrorIs(t, err, want)
		require.Equal(t, 1, hashes.n)
		if want == nil {
			require.NoError(t, err)
			require.NoError(t, e.verify(issued.Token))
		} else {
			require.Zero(t, issued)
		}
	}
}

type hashCounter struct {
	apikey.Hasher
	n int
}

func (h *hashCounter) Hash(ctx context.Context, secret []byte) (string, error) {
	h.n++
	return h.Hasher.Hash(ctx, secret)
}
