package apitest

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

var tomorrow = newClock().t.Add(24 * time.Hour)

func guardEverything(act apikey.Action, m apikey.Mode) []string {
	switch act {
	case apikey.ActionAllowEnrollment, apikey.ActionDisable, apikey.ActionLiftLock:
		return []string{"password"}
	}
	return guardAll(act, m)
}

// Each field of each request that can be approved is part of what is approved:
// with any other value in any of them the grant does not redeem. A field that
// is added later and forgotten in the sum is found here.
func TestEveryFieldIsApproved(t *testing.T) {
	tried := 0
	for _, op := range []bool{false, true} {
		for i := range 12 {
			var f *factors
			e := newEnv(t, withFactors(&f, nil))
			app2, _ := apikey.NewTOTP("Second", e.clock.now)
			issued := e.issue(recoverable).Key
			key := issued.ID
			require.NoError(t, drop(e.manager.Rotate(e.ctx, apikey.RotateRequest{Key: key, Overlap: time.Hour})))
			ver, _ := e.manager.Get(e.ctx, key)
			e.manager = e.newManager(func(c *managerConfig) {
				c.StepUp = guardEverything
				fs := map[string]apikey.Factor{"totpx": app2, "totp2": app2}
				for k, v := range c.Factors {
					fs[k] = v
				}
				c.Factors = fs
			})
			ctx, acc := e.ctx, ""
			if op {
				ctx, acc = staff(), "acc_1"
			}
			reqs := []apikey.Guarded{
				apikey.IssueRequest{Account: acc, Mode: apikey.Live, Kind: apikey.Secret, Name: "n", Abilities: []string{"card:tokenise"}, ExpiresAt: tomorrow, Metadata: map[string]string{"a": "1"}, Networks: []netip.Prefix{netip.MustParsePrefix("1.2.3.0/24")}, IdempotencyKey: "i"},
				apikey.IssueRequest{Account: acc, Mode: apikey.Live},
				apikey.UpdateRequest{Key: key, IfVersion: ver.Version, Name: apikey.Set("z")},
				apikey.ResumeRequest{Key: key},
				apikey.RotateRequest{Key: key, At: tomorrow, Overlap: time.Hour},
				apikey.RevokeRequest{Key: key},
				apikey.RevealRequest{Key: key},
				apikey.EnrollRequest{Factor: "totp"},
				apikey.DisableRequest{Factor: "totp"},
				apikey.DisableRequest{Factor: "totp", Actor: "usr_2", Account: acc},
				apikey.AllowEnrollmentRequest{Factor: "totp", Actor: "usr_2", Account: acc},
				apikey.LiftLockRequest{Actor: "usr_2", Account: acc},
			}
			base := reqs[i]
			if op && i >= 9 {
				continue // an operator is not asked
			}
			g := e.approve(f, ctx, "password", base)
			bv := reflect.ValueOf(base)
			for n := range bv.NumField() {
				name := bv.Type().Field(n).Name
				if name == "Grant" || op && name == "Actor" { // an operator is not asked about what they do for another
					continue
				}
				bound := false
				values := others(t, bv.Field(n))
				if name == "Credential" { // another one that can be revealed
					values = append(values, reflect.ValueOf(issued.Credential))
				}
				for _, other := range values {
					if reflect.DeepEqual(other.Interface(), bv.Field(n).Interface()) {
						continue
					}
					c := reflect.New(bv.Type()).Elem()
					c.Set(bv)
					c.Field(n).Set(other)
					c.FieldByName("Grant").Set(reflect.ValueOf(g))
					err := e.make(ctx, c.Interface().(apikey.Guarded))
					tried++
					if err == nil {
						t.Errorf("op=%v %T.%s = %v was accepted", op, base, name, other.Interface())
					}
					bound = bound || errors.Is(err, apikey.ErrGrant)
				}
				// Of these the value that is tried does not exist, or is not the actor's.
				if !bound && !slices.Contains([]string{"Key", "Account", "IfVersion"}, name) && !(op && i >= 9) {
					t.Errorf("op=%v %T.%s: no value of it was refused for the grant's sake", op, base, name)
				}
			}
			c := reflect.New(bv.Type()).Elem()
			c.Set(bv)
			c.FieldByName("Grant").Set(reflect.ValueOf(g))
			require.NotErrorIs(t, e.make(ctx, c.Interface().(apikey.Guarded)), apikey.ErrStepUpRequired, "%T as it was approved", base)
		}
	}
	t.Logf("%d requests with one field changed: 0 accepted", tried)
}

// others are values of the same type that a field may have instead.
func others(t *testing.T, v reflect.Value) []reflect.Value {
	var out []reflect.Value
	add := func(x any) { out = append(out, reflect.ValueOf(x).Convert(v.Type())) }
	switch x := v.Interface().(type) {
	case string:
		add(x + "x")
		add("\x00")
	case apikey.Mode:
		add(apikey.Mode(3) - x)
	case apikey.Kind:
		add(apikey.Publishable)
	case apikey.Reason:
		add(x + "x")
		add("unused")
	case []string:
		add([]string{"payment:checkout"})
		add([]string{"https://elsewhere.example"})
		add(append(append([]string{}, x...), "payment:verify"))
	case []netip.Prefix:
		add([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
		add(append(append([]netip.Prefix{}, x...), netip.MustParsePrefix("::/0")))
	case map[string]string:
		add(map[string]string{"q": "r"})
		add(map[string]string{"a1": ""})
	case time.Time:
		add(tomorrow.Add(time.Hour))
		add(tomorrow.Add(time.Microsecond))
	case time.Duration:
		add(x + time.Second)
	case uint64:
		add(x + 1)
	case int:
		add(x + 1)
	case bool:
		add(!x)
	case apikey.KeyID:
		x[3] ^= 1
		add(x)
	case apikey.CredentialID:
		x[3] ^= 1
		add(x)
	case apikey.Field[string]:
		add(apikey.Set("n"))
		add(apikey.Clear[string]())
		add(apikey.Set(""))
	case apikey.Field[[]string]:
		add(apikey.Set([]string{"payment:verify"}))
		add(apikey.Clear[[]string]())
	case apikey.Field[time.Time]:
		add(apikey.Set(tomorrow))
		add(apikey.Clear[time.Time]())
	case apikey.Field[[]netip.Prefix]:
		add(apikey.Set([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}))
		add(apikey.Clear[[]netip.Prefix]())
	case apikey.Field[map[string]string]:
		add(apikey.Set(map[string]string{"q": "r"}))
		add(apikey.Clear[map[string]string]())
	case apikey.Field[int]:
		add(apikey.Set(3))
		add(apikey.Clear[int]())
	case apikey.Field[bool]:
		add(apikey.Set(true))
		add(apikey.Clear[bool]())
	default:
		t.Fatalf("no mutation for %s", v.Type())
	}
	return out
}

// make makes any guarded request.
func (e *env) make(ctx context.Context, req apikey.Guarded) error {
	var err error
	switch r := req.(type) {
	case apikey.IssueRequest:
		_, err = e.manager.Issue(ctx, r)
	case apikey.UpdateRequest:
		_, err = e.manager.Update(ctx, r)
	case apikey.ResumeRequest:
		err = e.manager.Resume(ctx, r)
	case apikey.RotateRequest:
		_, err = e.manager.Rotate(ctx, r)
	case apikey.RevokeRequest:
		err = e.manager.Revoke(ctx, r)
	case apikey.RevealRequest:
		_, err = e.manager.Reveal(ctx, r)
	case apikey.EnrollRequest:
		_, err = e.manager.Enroll(ctx, r)
	case apikey.DisableRequest:
		err = e.manager.Disable(ctx, r)
	case apikey.AllowEnrollmentRequest:
		err = e.manager.AllowEnrollment(ctx, r)
	case apikey.LiftLockRequest:
		err = e.manager.LiftLock(ctx, r)
	default:
		e.t.Fatalf("%T is not known here", req)
	}
	return err
}
