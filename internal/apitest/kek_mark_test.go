package apitest

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// startedWith starts a Manager with these KEKs.
func (e *env) startedWith(keks ...apikey.KEK) error {
	c := e.mc
	c.KEKs = keks
	_, err := apikey.NewManager(background, e.settings, c)
	return err
}

func withKEKs(keks ...apikey.KEK) func(*env) {
	return func(e *env) { e.mc.KEKs, e.mc.InsecureRevealWithoutStepUp = keks, true }
}

// A KEK with the ID of another key is refused at the start, and nothing is written. Its
// predecessor, a successor with an ID of its own and the two together are not.
func TestWrongKEKIsRefusedAtTheStart(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		right, fresh := localKEK(t, "kek-1", 41), localKEK(t, "kek-2", 9)
		for name, pepper := range map[string]func(*env){"with a pepper": func(*env) {}, "without": noPepper} {
			t.Run(name, func(t *testing.T) {
				e := newEnv(t, on, pepper, withKEKs(right))
				key := e.issue(recoverable)
				for _, keks := range [][]apikey.KEK{{localKEK(t, "kek-1", 50)}, {fresh, localKEK(t, "kek-1", 50)}} {
					err := e.startedWith(keks...)
					require.ErrorIs(t, err, apikey.ErrInvalid)
					require.ErrorContains(t, err, `the KEK "kek-1" in ManagerConfig.KEKs`)
					require.ErrorContains(t, err, "an ID of its own")
				}
				require.NoError(t, e.startedWith(localKEK(t, "kek-2", 60)), "no start that was refused has marked kek-2")
				require.ErrorContains(t, e.startedWith(fresh), `"kek-2"`)
				require.NoError(t, e.startedWith(localKEK(t, "kek-2", 60), right))
				require.NoError(t, e.startedWith(right, localKEK(t, "kek-2", 60)))
				require.NoError(t, e.startedWith(), "without KEKs")
				require.NoError(t, e.startedWith(localKEK(t, "kek-3", 9)))
				shown, err := e.manager.Reveal(e.ctx, apikey.RevealRequest{Key: key.Key.ID})
				require.NoError(t, err)
				require.Equal(t, key.Token.Reveal(), shown.Token.Reveal())
			})
		}
	})
}

// After Reseal the old KEK is retired. Its ID never gets another key.
func TestRetiredKEKKeepsItsID(t *testing.T) {
	old, fresh := localKEK(t, "kek-1", 41), localKEK(t, "kek-2", 9)
	e := newEnv(t, withKEKs(old))
	e.issue(recoverable)
	done, err := e.newManager(func(c *managerConfig) { c.KEKs = []apikey.KEK{fresh, old} }).Reseal(staff(), 0)
	require.NoError(t, err)
	require.Equal(t, 1, done)
	require.NoError(t, e.startedWith(fresh))
	require.ErrorIs(t, e.startedWith(fresh, localKEK(t, "kek-1", 50)), apikey.ErrInvalid)
}

// Two nodes start at once on a new database, with different keys under one ID: one of
// them starts. With the same key both do.
func TestNodesWithOtherKEKsStartAtOnce(t *testing.T) {
	for _, c := range []struct {
		fills [2]byte
		fail  int
	}{{[2]byte{41, 50}, 1}, {[2]byte{41, 41}, 0}} {
		e := newEnv(t)
		errs := make(chan error, 2)
		var nodes sync.WaitGroup
		for _, fill := range c.fills {
			kek := localKEK(t, "kek-1", fill)
			nodes.Go(func() { errs <- e.startedWith(kek) })
		}
		nodes.Wait()
		refused := 0
		for range 2 {
			if err := <-errs; err != nil {
				require.ErrorIs(t, err, apikey.ErrInvalid)
				refused++
			}
		}
		require.Equal(t, c.fail, refused)
	}
}

// A start asks no KEK of the program's own: a key service may be away then.
func TestStartAsksNoKEK(t *testing.T) {
	asked := &brokenKEK{KEK: localKEK(t, "kms", 1)}
	asked.set(func(k *brokenKEK) {
		k.wrap = func(context.Context, func() ([]byte, error)) ([]byte, error) {
			t.Error("Wrap")
			return nil, errors.New("away")
		}
		k.unwrap = func(context.Context, func() ([]byte, error)) ([]byte, error) {
			t.Error("Unwrap")
			return nil, errors.New("away")
		}
	})
	e := newEnv(t)
	require.NoError(t, e.startedWith(asked))
}

// An item that nobody can write any more, because of its version, stops no start, and is
// in the log.
func TestMarkThatCannotBeWrittenStopsNoStart(t *testing.T) {
	store, db := sqliteOf(t)
	kek := localKEK(t, "kek-1", 41)
	e := newEnv(t, func(e *env) { e.store = store }, withKEKs(kek))
	var log bytes.Buffer
	e.settings.Logger = slog.New(slog.NewTextHandler(&log, nil))
	for _, version := range []int64{0, -1, math.MaxInt64} {
		_, err := db.Exec("UPDATE apikey_items SET version = ?, data = x'00' WHERE kind = 'kek'", version)
		require.NoError(t, err)
		require.NoError(t, e.startedWith(kek))
	}
	require.Contains(t, log.String(), "which KEKs this database is used with")
}

// A start whose store takes no writes fails, as it does for the mark of a pepper.
func TestStartThatCannotMarkFails(t *testing.T) {
	var p *proxy
	e := newEnv(t, through(&p))
	away(p, false, true)
	require.ErrorIs(t, e.startedWith(localKEK(t, "kek-1", 41)), apikey.ErrUnavailable)
}

// Somebody who writes to the database without the pepper cannot stop a start with a mark
// of their own: it counts as missing.
func TestForgedKEKMarkIsNone(t *testing.T) {
	kek := localKEK(t, "kek-1", 41)
	e := newEnv(t, withKEKs(kek))
	forged := e.itemsOf("kek")[0]
	right := bytes.Clone(forged.Data)
	forged.Version++
	forged.Data = bytes.Clone(right)
	forged.Data[len(right)-1] ^= 1
	require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: apikey.EventID(storetest.NewKeyID()), Items: []apikey.StoreItem{forged}}))
	require.NoError(t, e.startedWith(kek))
	require.Equal(t, right, e.itemsOf("kek")[0].Data)
}

// A KEK that has no mark, because it is a key service's or is wrapped, may be wrong all
// the same. What does not open then says so, for whoever reads the log.
func TestValueThatDoesNotOpenNamesTheKEK(t *testing.T) {
	const says = `the KEK "kek-1" in ManagerConfig.KEKs is another key than the one that sealed it`
	s := newSealedEnv(t, 1)
	other := s.newManager(func(c *managerConfig) {
		c.KEKs = []apikey.KEK{localKEK(t, "kek-9", 9), &brokenKEK{KEK: localKEK(t, "kek-1", 50)}}
	})
	for id := range s.tokens {
		_, err := other.Reveal(s.ctx, apikey.RevealRequest{Key: id})
		require.ErrorIs(t, err, apikey.ErrCorrupt)
		require.ErrorContains(t, err, says)
	}
	_, err := other.Challenge(s.ctx, "totp", apikey.RotateRequest{Key: s.issue().Key.ID})
	if err == nil {
		var put apikey.Challenge
		put, err = other.Challenge(s.ctx, "totp", apikey.RotateRequest{Key: s.issue().Key.ID})
		require.NoError(t, err)
		_, err = other.Confirm(s.ctx, put.ID, "123456")
	}
	require.ErrorIs(t, err, apikey.ErrCorrupt)
	require.ErrorContains(t, err, says)
	done, err := other.Reseal(staff(), 0)
	require.Zero(t, done)
	require.ErrorIs(t, err, apikey.ErrCorrupt)
	require.ErrorContains(t, err, says)
}

// The text of a file of peppers may be right for KEKs too. One key for both is refused,
// wherever the pepper is used.
func TestPepperIsNoKEK(t *testing.T) {
	twice := "7:" + digits(77)
	pepper, err := apikey.ParsePepper(twice)
	require.NoError(t, err)
	kek, err := apikey.ParseKEK(twice)
	require.NoError(t, err)
	hmac, err := apikey.NewHMACSHA256(pepper)
	require.NoError(t, err)
	mail, err := apikey.NewEmailCode(noMail{}, pepper)
	require.NoError(t, err)
	for name, change := range map[string]func(*env){
		"Settings.Peppers": func(e *env) { e.settings.Peppers = append(e.settings.Peppers, pepper) },
		"a Hasher": func(e *env) {
			noPepper(e)
			e.settings.Hashers = append(e.settings.Hashers, hmac)
		},
		"a Factor": func(e *env) { e.mc.Factors = map[string]apikey.Factor{"email": mail} },
	} {
		e := newEnv(t, change)
		require.NoError(t, e.startedWith(localKEK(t, "kek-1", 78)), name)
		err = e.startedWith(localKEK(t, "kek-1", 78), kek)
		require.ErrorIs(t, err, apikey.ErrInvalid, name)
		require.ErrorContains(t, err, `the KEK "7" in ManagerConfig.KEKs has the same key as the pepper of slot 7`, name)
		require.NotContains(t, err.Error(), digits(77)[:8], name)
	}
}

type noMail struct{}

func (noMail) Send(context.Context, string, apikey.Message) error { return nil }
