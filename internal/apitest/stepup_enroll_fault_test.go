package apitest

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// blind cannot read the items of one kind.
type blind struct {
	apikey.Store
	to atomic.Value // apikey.StoreItemKind
}

func (b *blind) Items(ctx context.Context, f apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	if f.Kind == b.to.Load() {
		return apikey.StoreItemPage{}, apikey.ErrUnavailable
	}
	return b.Store.Items(ctx, f)
}

// An enrolment that is answered with an error is not confirmed, whichever read it
// was that failed; the same answer confirms it later.
func TestConfirmEnrollmentIsWhole(t *testing.T) {
	for _, kind := range []apikey.StoreItemKind{"budget", "enrolling", "enrolled", "enrollable"} {
		t.Run(string(kind), func(t *testing.T) {
			var f *factors
			b := &blind{}
			e := newEnv(t, func(e *env) {
				b.Store = e.store
				e.store = b
			}, withFactors(&f, apikey.GuardRotate("password")))
			req := apikey.EnrollRequest{Factor: "totp"}
			req.Grant = e.approve(f, e.ctx, "password", req)
			enrollment, err := e.manager.Enroll(e.ctx, req)
			require.NoError(t, err)
			f.scan(admin.ID, enrollment)

			b.to.Store(kind)
			require.ErrorIs(t, e.manager.ConfirmEnrollment(e.ctx, "totp", f.app(admin.ID)), apikey.ErrUnavailable)
			b.to.Store(apikey.StoreItemKind(""))
			enrolled, err := e.manager.Enrolled(e.ctx)
			require.NoError(t, err)
			require.Empty(t, enrolled)
			require.NoError(t, e.manager.ConfirmEnrollment(e.ctx, "totp", f.app(admin.ID)))
		})
	}
}
