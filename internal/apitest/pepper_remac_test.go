package apitest

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// remacAll renews by chunks until there is nothing left, and returns how many.
func remacAll(t *testing.T, m *apikey.Manager, chunk int) (total int) {
	t.Helper()
	for range 100 {
		n, err := m.Remac(staff(), chunk)
		require.NoError(t, err)
		require.LessOrEqual(t, n, chunk)
		if total += n; n == 0 {
			return total
		}
	}
	t.Fatal("Remac does not end")
	return 0
}

// Remac that is killed goes on where it was; records that were tampered with are
// named and never signed, and hold up no other.
func TestRemacIsResumableAndLaundersNothing(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var p *proxy
		e := newEnv(t, on, through(&p))
		var keys []apikey.Issued
		for range 10 {
			keys = append(keys, e.issue())
		}
		bad := []apikey.KeyID{keys[6].Key.ID, keys[7].Key.ID} // a whole chunk of them
		p.hook(func(p *proxy) {
			p.out = func(r *apikey.StoreRecord) {
				if slices.Contains(bad, r.ID) {
					r.Account = "acc_2"
				}
			}
		})
		m := e.newManager(func(c *managerConfig) { c.Peppers = []apikey.Pepper{pepper(t, 2), c.Peppers[0]} })
		ctx, kill := context.WithCancel(staff())
		applied := 0
		p.hook(func(p *proxy) {
			p.apply = func(next func() error, _ []apikey.StoreChange) error {
				if applied++; applied == 3 {
					kill()
				}
				return next()
			}
		})
		n, err := m.Remac(ctx, 0)
		require.ErrorIs(t, err, context.Canceled)
		require.Less(t, n, 4)
		p.hook(func(p *proxy) { p.apply = nil })

		renewed := 0
		for i := range 20 {
			limit := 3 - i%2
			n, err := m.Remac(staff(), limit)
			require.LessOrEqual(t, n, limit)
			if renewed += n; n == 0 {
				require.ErrorIs(t, err, apikey.ErrCorrupt)
				for _, id := range bad {
					require.ErrorContains(t, err, id.String(), "what is left is named")
				}
				break
			}
		}
		require.GreaterOrEqual(t, renewed, 10-2-3)
		for _, k := range keys {
			r, err := p.Store.Get(background, k.Key.ID)
			require.NoError(t, err)
			if slices.Contains(bad, k.Key.ID) {
				require.Equal(t, uint8(1), r.MAC[0], "not signed")
				require.Equal(t, uint64(1), r.Version)
			} else {
				require.Equal(t, uint8(2), r.MAC[0])
				require.Equal(t, uint64(2), r.Version, "once")
			}
		}
	})
}

func TestRemacRefuses(t *testing.T) {
	e := newEnv(t)
	e.issue()
	for _, role := range []string{"superadmin", "operator"} {
		_, err := e.manager.Remac(as("acc_1", role), 0)
		require.ErrorIs(t, err, apikey.ErrForbidden)
		require.NotErrorIs(t, err, apikey.ErrUnavailable, "nobody should try again")
	}
	_, err := e.manager.Remac(background, 0)
	require.ErrorIs(t, err, apikey.ErrNoActor)
	require.NotErrorIs(t, err, apikey.ErrUnavailable)
	for _, limit := range []int{-1, 1001} {
		_, err := e.manager.Remac(staff(), limit)
		require.ErrorIs(t, err, apikey.ErrInvalid, "0 renewed would mean that all is done")
	}
	n, err := e.manager.Remac(staff(), 0)
	require.NoError(t, err)
	require.Zero(t, n, "all are of the pepper that mints")
	plain := newEnv(t, noPepper)
	_, err = plain.manager.Remac(staff(), 0)
	require.ErrorIs(t, err, apikey.ErrInvalid)
}

// Keys go on verifying, warm and cold, while all of their MACs are renewed, and
// a Remac on two nodes at once renews each once.
func TestRemacUnderTraffic(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		e := newEnv(t, on)
		both := []apikey.Pepper{pepper(t, 2), e.settings.Peppers[0]}
		var keys []apikey.Issued
		for range 20 {
			keys = append(keys, e.issue())
		}
		m := e.newManager(func(c *managerConfig) {
			c.Peppers, c.Hashers = both, []apikey.Hasher{hmacHasher(t, both...)}
		})
		v := e.verifierOf(m)
		errs := together(6, func(i int) error {
			if i < 2 {
				for {
					n, err := m.Remac(staff(), 3)
					if n == 0 || err != nil {
						return err
					}
				}
			}
			for n := range 200 {
				if _, err := v.Verify(background, keys[(i+n)%20].Token.Reveal(), apikey.Request{}); err != nil {
					return err
				}
			}
			return nil
		})
		require.Equal(t, 6, count(errs, nil), errs)
		for _, k := range keys {
			r, err := e.store.Get(background, k.Key.ID)
			require.NoError(t, err)
			require.Equal(t, uint64(2), r.Version)
			require.Equal(t, uint8(2), r.MAC[0])
		}
	})
}
