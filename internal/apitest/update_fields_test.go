package apitest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

// A value that somebody forgot to fill in takes away neither the end of a key nor
// what restricts it: the update is refused before anybody is asked for a factor,
// and Clear says what is meant.
func TestFound19AnEmptyValueIsNotClear(t *testing.T) {
	for _, c := range []struct {
		name, json string
		req        apikey.UpdateRequest
		clear      string
		clearReq   apikey.UpdateRequest
	}{
		{"expiry", `{"expires_at":"0001-01-01T00:00:00Z"}`, apikey.UpdateRequest{ExpiresAt: apikey.Set(time.Time{})},
			`{"expires_at":null}`, apikey.UpdateRequest{ExpiresAt: apikey.Clear[time.Time]()}},
		{"expiry of another zone", `{"expires_at":"0001-01-01T01:00:00+01:00"}`, apikey.UpdateRequest{ExpiresAt: apikey.Set(time.Time{}.In(time.FixedZone("", 3600)))},
			`{"expires_at":null}`, apikey.UpdateRequest{ExpiresAt: apikey.Clear[time.Time]()}},
		{"expiry a nanosecond after it", `{"expires_at":"0001-01-01T00:00:00.000000001Z"}`, apikey.UpdateRequest{ExpiresAt: apikey.Set(time.Time{}.Add(1))},
			`{"expires_at":null}`, apikey.UpdateRequest{ExpiresAt: apikey.Clear[time.Time]()}},
		{"networks", `{"networks":[]}`, apikey.UpdateRequest{Networks: apikey.Set([]netip.Prefix{})},
			`{"networks":null}`, apikey.UpdateRequest{Networks: apikey.Clear[[]netip.Prefix]()}},
		{"networks that are nil", `{"networks":[]}`, apikey.UpdateRequest{Networks: apikey.Set([]netip.Prefix(nil))},
			`{"networks":null}`, apikey.UpdateRequest{Networks: apikey.Clear[[]netip.Prefix]()}},
		{"origins", `{"origins":[]}`, apikey.UpdateRequest{Origins: apikey.Set([]string{})},
			`{"origins":null}`, apikey.UpdateRequest{Origins: apikey.Clear[[]string]()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			read := func(text string) (req apikey.UpdateRequest) {
				require.NoError(t, json.Unmarshal([]byte(text), &req))
				return req
			}
			for how, reqs := range map[string][2]apikey.UpdateRequest{"Go": {c.req, c.clearReq}, "JSON": {read(c.json), read(c.clear)}} {
				var f *factors
				e := newEnv(t, withFactors(&f, apikey.GuardWiden("password")))
				key := full(e)
				refused, cleared := reqs[0], reqs[1]
				refused.Key, cleared.Key = key.Key.ID, key.Key.ID
				_, err := e.manager.Update(e.ctx, refused)
				require.ErrorIs(t, err, apikey.ErrInvalid, how)
				_, err = e.manager.Challenge(e.ctx, "password", refused)
				require.ErrorIs(t, err, apikey.ErrInvalid, how)
				info, err := e.manager.Get(e.ctx, key.Key.ID)
				require.NoError(t, err)
				require.Equal(t, fullShape, shape(info), how)

				cleared.Grant = e.approve(f, e.ctx, "password", cleared)
				info, err = e.manager.Update(e.ctx, cleared)
				require.NoError(t, err, how)
				require.NotEqual(t, fullShape, shape(info), how)
			}
		})
	}
}

// An empty list lifts nothing where there is no restriction: a form that always
// sends its lists goes on working.
func TestFound19AnEmptyListOfAnOpenKeyChangesNothing(t *testing.T) {
	e := newEnv(t)
	key := e.issue()
	info, err := e.manager.Update(e.ctx, apikey.UpdateRequest{Key: key.Key.ID, Networks: apikey.Set([]netip.Prefix{}), Origins: apikey.Set([]string{})})
	require.NoError(t, err)
	require.Equal(t, key.Key.Version, info.Version)
}

// A Field that is written as JSON and read again is what it was, or is refused:
// none comes back as Clear that was not.
func TestFound19NoFieldComesBackAsClear(t *testing.T) {
	type plain struct{ F apikey.Field[[]string] } // forgets omitzero
	type right struct {
		F apikey.Field[[]string] `json:",omitzero"`
	}
	for name, f := range map[string]apikey.Field[[]string]{
		"keep": {}, "clear": apikey.Clear[[]string](), "set": apikey.Set([]string{"a"}), "set empty": apikey.Set([]string{}), "set nil": apikey.Set([]string(nil)),
	} {
		for how, round := range map[string]func() (apikey.Field[[]string], error){
			"without omitzero": func() (apikey.Field[[]string], error) {
				var out plain
				text, err := json.Marshal(plain{f})
				if err == nil {
					err = json.Unmarshal(text, &out)
				}
				return out.F, err
			},
			"with omitzero": func() (apikey.Field[[]string], error) {
				var out right
				text, err := json.Marshal(right{f})
				if err == nil {
					err = json.Unmarshal(text, &out)
				}
				return out.F, err
			},
		} {
			back, err := round()
			switch {
			case name == "keep" && how == "without omitzero", name == "set nil":
				require.ErrorIs(t, err, apikey.ErrInvalid, "%s %s", name, how)
			default:
				require.NoError(t, err, "%s %s", name, how)
				require.Equal(t, f, back, "%s %s", name, how)
			}
		}
	}
	// The whole request, which has the option on each of its fields.
	text, err := json.Marshal(apikey.UpdateRequest{Name: apikey.Set("x"), Networks: apikey.Clear[[]netip.Prefix]()})
	require.NoError(t, err)
	var back apikey.UpdateRequest
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, apikey.UpdateRequest{Name: apikey.Set("x"), Networks: apikey.Clear[[]netip.Prefix]()}, back)
	require.JSONEq(t, `{"name":"x","networks":null}`, string(text))
}

// bigFactor keeps as much of a challenge as a test says.
type bigFactor struct{ bytes int }

func (f bigFactor) Begin(context.Context, apikey.Actor, apikey.Challenge, []byte) ([]byte, func(context.Context) error, error) {
	return make([]byte, f.bytes), nil, nil
}

func (bigFactor) Check(context.Context, apikey.Actor, apikey.Challenge, []byte, []byte, string) ([]byte, bool, error) {
	return nil, true, nil
}

// What a factor keeps is counted with all that is kept beside it, before a store
// has to refuse it in its own words, or cuts it off.
func TestFound16WhatIsKeptOfAChallengeHasABound(t *testing.T) {
	for bytes, fits := range map[int]bool{60 << 10: true, 64 << 10: false, 1 << 20: false} {
		t.Run(fmt.Sprint(bytes), func(t *testing.T) {
			onStores(t, func(t *testing.T, on func(*env)) {
				e := newEnv(t, on, func(e *env) {
					e.mc.StepUp, e.mc.Factors = apikey.GuardRevealAndRotate("big"), map[string]apikey.Factor{"big": bigFactor{bytes}}
				})
				req := apikey.RotateRequest{Key: e.issue().Key.ID}
				c, err := e.manager.Challenge(e.ctx, "big", req)
				if !fits {
					require.ErrorIs(t, err, apikey.ErrLimit)
					require.Contains(t, err.Error(), "65536")
					return
				}
				require.NoError(t, err)
				_, err = e.manager.Confirm(e.ctx, c.ID, "right")
				require.NoError(t, err)
			})
		})
	}
}
