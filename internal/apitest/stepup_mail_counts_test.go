package apitest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// of is an admin of an account.
func of(account, id string) context.Context {
	return apikey.WithActor(background, apikey.Actor{ID: id, Account: account, Role: "admin"})
}

// mailbox is a Sender that knows addresses.
type mailbox struct {
	*factors
	mu      sync.Mutex
	address func(actorID string) (string, error)
	to      map[string]int
}

// addressed configures e-mail through a mailbox; address is asked for each actor.
func addressed(m **mailbox, address func(string) (string, error)) func(*env) {
	return func(e *env) {
		var f *factors
		withFactors(&f, apikey.GuardCreateAndDelete("email"))(e)
		*m = &mailbox{factors: f, address: address, to: map[string]int{}}
		code, err := apikey.NewEmailCode(*m, e.settings.Peppers...)
		require.NoError(e.t, err)
		e.mc.Factors["email"] = code
	}
}

func (m *mailbox) Address(_ context.Context, actorID string) (string, error) {
	return m.address(actorID)
}

func (m *mailbox) Send(ctx context.Context, actorID string, msg apikey.Message) error {
	if err := m.factors.Send(ctx, actorID, msg); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	address, _ := m.address(actorID)
	m.to[strings.ToLower(address)]++
	return nil
}

var (
	_ apikey.Sender    = (*mailbox)(nil)
	_ apikey.Addresser = (*mailbox)(nil)
)

// request is one of many different ones.
func request(n int) apikey.IssueRequest {
	return apikey.IssueRequest{Mode: apikey.Live, Name: fmt.Sprint("key ", n)}
}

// A person in ten accounts has one mailbox: five codes an hour are sent to them over
// all accounts, not fifty.
func TestFound09FiveCodesOverAllAccounts(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardCreateAndDelete("email")))
		refused := 0
		for account := range 10 {
			for n := range 5 {
				_, err := e.newManager().Challenge(of(fmt.Sprint("acc_", account), "usr_1"), "email", request(n))
				var wait *apikey.AttemptsError
				if errors.As(err, &wait) {
					require.Equal(t, time.Hour, wait.Wait)
					refused++
					continue
				}
				require.NoError(t, err)
			}
		}
		require.Len(t, f.mails, 5)
		require.Equal(t, 45, refused)
		_, err := e.manager.Challenge(of("acc_0", "usr_2"), "email", request(0))
		require.NoError(t, err, "somebody else")
		issue := request(0)
		issue.Account = "acc_0"
		_, err = e.manager.Challenge(apikey.WithActor(background, apikey.Operator("usr_1")), "email", issue)
		require.NoError(t, err, "an operator of that name is somebody else")
		e.clock.move(time.Hour)
		_, err = e.manager.Challenge(of("acc_9", "usr_1"), "email", request(0))
		require.NoError(t, err)
	})
}

// At the same time, on two nodes: five.
func TestFound09AtOnce(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var m *mailbox
		e := newEnv(t, on, addressed(&m, func(string) (string, error) { return "anna@shop.example", nil }))
		nodes := []*apikey.Manager{e.manager, e.newManager()}
		errs := together(12, func(i int) error {
			_, err := nodes[i%2].Challenge(of(fmt.Sprint("acc_", i), "usr_1"), "email", request(i))
			return err
		})
		sent := count(errs, nil)
		require.LessOrEqual(t, sent, 5, "%v", errs)
		require.Len(t, m.mails, sent)
	})
}

// Many names of one mailbox: twenty an hour, in whatever case the address is written.
// Whoever registers under somebody's address elsewhere does not silence them with the
// five codes of one actor, nor of three.
func TestFound09TwentyToAnAddress(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var m *mailbox
		e := newEnv(t, on, addressed(&m, func(id string) (string, error) {
			switch {
			case id == "usr_other":
				return "other@shop.example", nil
			case len(id)%2 == 0:
				return " Anna@Shop.example", nil
			}
			return "anna@shop.example", nil
		}))
		ask := func(id string, n int) error {
			_, err := e.manager.Challenge(of("acc_"+id, id), "email", request(n))
			return err
		}
		for n := range 5 {
			for _, namesake := range []string{"a", "bb", "ccc"} {
				require.NoError(t, ask(namesake, n))
			}
		}
		require.NoError(t, ask("usr_anna", 0), "three namesakes do not silence her")
		for n := range 4 {
			require.NoError(t, ask("dddd", n))
		}
		require.Equal(t, 20, m.to[" anna@shop.example"]+m.to["anna@shop.example"])
		var wait *apikey.AttemptsError
		require.ErrorAs(t, ask("eeeee", 0), &wait)
		require.Equal(t, time.Hour, wait.Wait)
		require.ErrorIs(t, ask("usr_anna", 1), apikey.ErrTooManyAttempts)
		require.NoError(t, ask("usr_other", 0), "another mailbox")
		for _, it := range e.itemsOf("mails") {
			require.NotContains(t, it.ID+string(it.Data), "anna")
		}
		e.clock.move(time.Hour)
		require.NoError(t, ask("usr_anna", 1))
	})
}

// What was not sent is taken back from every count, and what may have been sent is not.
func TestFound09UnsentCountsNowhere(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var m *mailbox
		e := newEnv(t, on, addressed(&m, func(string) (string, error) { return "anna@shop.example", nil }))
		m.fail(errors.New("550 no such mailbox"))
		for n := range 25 {
			_, err := e.manager.Challenge(e.ctx, "email", request(n))
			require.ErrorIs(t, err, apikey.ErrUnavailable)
		}
		m.fail(context.DeadlineExceeded)
		for n := range 5 {
			_, err := e.manager.Challenge(e.ctx, "email", request(n))
			require.ErrorIs(t, err, apikey.ErrUnavailable)
		}
		m.fail(nil)
		_, err := e.manager.Challenge(e.ctx, "email", request(0))
		require.ErrorIs(t, err, apikey.ErrTooManyAttempts)
	})
}

// An address that cannot be found is our failure: nothing is sent, nothing counted. A
// person without an address, and a Sender that knows none, are counted by actor.
func TestFound09NoAddress(t *testing.T) {
	var m *mailbox
	var fails error
	e := newEnv(t, addressed(&m, func(string) (string, error) { return "", fails }))
	fails = errors.New("directory is away")
	_, err := e.manager.Challenge(e.ctx, "email", request(0))
	require.ErrorIs(t, err, apikey.ErrUnavailable)
	require.ErrorIs(t, err, fails)
	require.Empty(t, m.mails)
	require.Empty(t, e.itemsOf("mails"))
	fails = nil
	for n := range 5 {
		_, err := e.manager.Challenge(e.ctx, "email", request(n))
		require.NoError(t, err)
	}
	_, err = e.manager.Challenge(e.ctx, "email", request(5))
	require.ErrorIs(t, err, apikey.ErrTooManyAttempts)
	require.Len(t, e.itemsOf("mails"), 1)
}

// A count that cannot be read is full, until it expires.
func TestFound09DamagedCountIsFull(t *testing.T) {
	onStores(t, func(t *testing.T, on func(*env)) {
		var f *factors
		e := newEnv(t, on, withFactors(&f, apikey.GuardCreateAndDelete("email")))
		_, err := e.manager.Challenge(e.ctx, "email", request(0))
		require.NoError(t, err)
		it := e.itemsOf("mails")[0]
		it.Version++
		it.Data = it.Data[:len(it.Data)-1]
		require.NoError(t, e.store.Apply(background, apikey.StoreChange{ID: storetest.NewKeyID(), Items: []apikey.StoreItem{it}}))
		_, err = e.manager.Challenge(e.ctx, "email", request(1))
		require.ErrorIs(t, err, apikey.ErrTooManyAttempts)
		e.clock.move(time.Hour)
		_, err = e.manager.Challenge(e.ctx, "email", request(1))
		require.NoError(t, err)
	})
}
