package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// committed remembers the event of every change that was acknowledged.
type committed struct {
	mu  sync.Mutex
	ids map[apikey.EventID]apikey.KeyID
}

func (c *committed) add(e apikey.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil {
		c.ids = map[apikey.EventID]apikey.KeyID{}
	}
	c.ids[e.ID] = e.Key
}

// lost counts those that are not in the log of a node, and checks every chain.
func (c *committed) lost(t *testing.T, m *apikey.Manager, keys []workKey) (changes, lost, broken int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	logged, ours := map[apikey.EventID]bool{}, map[apikey.KeyID]bool{}
	for _, k := range keys {
		for req := (apikey.EventsRequest{Key: k.id, Limit: 1000}); ; {
			page, err := m.Events(adminOf(k.account), req)
			must(t, err)
			for _, e := range page.Events {
				logged[e.ID] = true
			}
			if req.Cursor = page.Next; req.Cursor == "" {
				break
			}
		}
		ours[k.id] = true
		report, err := m.VerifyEvents(adminOf(k.account), k.id)
		must(t, err)
		info, err := m.Get(adminOf(k.account), k.id)
		must(t, err)
		if report.Broken != nil || report.Events != int(info.Version) {
			broken++
			t.Errorf("the chain of %s at version %d: %+v", k.id, info.Version, report)
		}
	}
	for id, key := range c.ids {
		if ours[key] {
			changes++
			if !logged[id] {
				lost++
			}
		}
	}
	return changes, lost, broken
}

type workKey struct {
	id      apikey.KeyID
	account string
}

// issueKeys makes 8 keys, of one account or of eight.
func issueKeys(t *testing.T, m *apikey.Manager, accounts int) (keys []workKey) {
	t.Helper()
	for i := range 8 {
		account := fmt.Sprintf("acc_%d_%d", accounts, i%accounts)
		issued, err := m.Issue(adminOf(account), apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		keys = append(keys, workKey{issued.Key.ID, account})
	}
	return keys
}

// tally counts the answers to one kind of change.
type tally struct{ asked, done, failed atomic.Int64 }

func (c *tally) count(t *testing.T, what string, err error) {
	c.asked.Add(1)
	switch {
	case err == nil, errors.Is(err, apikey.ErrRevoked):
		c.done.Add(1)
	default:
		if c.failed.Add(1) <= 3 {
			t.Logf("%s: %v", what, err)
		}
	}
}

// Sixteen writers on the three nodes of a cluster change the same eight keys without
// a pause, suspend and resume them and at the end revoke them. No update is lost, what
// takes power away always succeeds, and so does nearly everything else; also when
// a node is killed meanwhile, for what was acknowledged.
func TestGalera(t *testing.T) {
	e := named("mariadb/interpolated")[0]
	nodes := startGalera(t, 3)
	var stores []*sqlstore.Store
	var managers []*apikey.Manager
	all := &committed{}
	for i, n := range nodes {
		bare := e.pool(t, n.mysqlDSN("&interpolateParams=true"))
		_, err := sqlstore.New(bare, sqlstore.MySQL)
		wants(t, err, apikey.ErrInvalid, "add wsrep_sync_wait=1")
		stores = append(stores, open(t, e.pool(t, n.galeraDSN()), sqlstore.MySQL))
		if i == 0 {
			migrateOnAll(t, nodes, e)
		}
		managers = append(managers, newManager(t, stores[i], func(c *managing) { c.OnEvent = all.add }))
	}
	readsAreCurrent(t, stores)
	counted, p := e.proxied(t, nodes[0].galeraDSN())
	flushLastUses(t, p, open(t, counted, sqlstore.MySQL), stores[1], stores[2])
	for _, accounts := range []int{1, 8} {
		var updates, resumes, safety tally
		keys := issueKeys(t, managers[0], accounts)
		work(t, managers, keys, 16, 220, &updates, &resumes, &safety, nil)
		changes, lost, broken := all.lost(t, managers[2], keys)
		bound := 100 * float64(updates.done.Load()) / float64(updates.asked.Load())
		t.Logf("16 writers, 8 keys of %d accounts: %d updates, %.2f %% within the bound; %d resumptions, which meet at the account's quota too, %d not within it; %d suspensions and revocations, %d failed; of %d changes lost %d, broken chains %d",
			accounts, updates.asked.Load(), bound, resumes.asked.Load(), resumes.failed.Load(), safety.asked.Load(), safety.failed.Load(), changes, lost, broken)
		if changes < 200 || lost+broken != 0 || safety.failed.Load() != 0 || bound < 99.9 {
			t.Fail()
		}
		dead(t, managers, keys)
	}

	var updates, resumes, safety tally
	keys := issueKeys(t, managers[0], 8)
	work(t, managers, keys, 16, 60, &updates, &resumes, &safety, func() { nodes[1].stop(syscall.SIGKILL) })
	changes, lost, broken := all.lost(t, managers[2], keys)
	t.Logf("a node is killed meanwhile: %d of %d updates and resumptions and %d of %d suspensions and revocations done; of %d changes lost %d, broken chains %d",
		updates.done.Load()+resumes.done.Load(), updates.asked.Load()+resumes.asked.Load(), safety.done.Load(), safety.asked.Load(), changes, lost, broken)
	if changes < 200 || lost+broken != 0 {
		t.Fail()
	}
	dead(t, []*apikey.Manager{managers[0], managers[2]}, keys)
}

// migrateOnAll: the nodes of a cluster have no lock in common.
func migrateOnAll(t *testing.T, nodes []*server, e engine) {
	t.Helper()
	errs := make([]error, 2*len(nodes))
	var wg sync.WaitGroup
	for i := range errs {
		s := open(t, e.pool(t, nodes[i%len(nodes)].galeraDSN()), sqlstore.MySQL)
		wg.Go(func() { errs[i] = s.Migrate(context.Background()) })
	}
	wg.Wait()
	must(t, errors.Join(errs...))
}

// readsAreCurrent: what one node has acknowledged, the next one reads.
func readsAreCurrent(t *testing.T, stores []*sqlstore.Store) {
	t.Helper()
	stale := 0
	r := create(t, stores[0])
	for n := range 200 {
		r = next(r)
		must(t, stores[n%3].Apply(t.Context(), change(r)))
		got, err := stores[(n+1)%3].Lookup(t.Context(), r.Credentials[0].ID)
		must(t, err)
		if got.Version != r.Version {
			stale++
		}
	}
	t.Logf("200 reads on another node right after a change: stale %d", stale)
	if stale != 0 {
		t.Fail()
	}
}

// work has every writer on its node make so many changes of random keys. In the
// middle something happens; near the end every key is revoked, by two writers at
// once. A writer whose node is gone goes to another, as a pool does that has
// several hosts.
func work(t *testing.T, managers []*apikey.Manager, keys []workKey, writers, changes int, updates, resumes, safety *tally, happens func()) {
	t.Helper()
	var wg sync.WaitGroup
	var once sync.Once
	var gone atomic.Int64
	for w := range writers {
		wg.Go(func() {
			node := w % len(managers)
			do := func(c *tally, what string, change func(ctx context.Context, m *apikey.Manager) error, account string) {
				ctx, cancel := context.WithTimeout(adminOf(account), 20*time.Second)
				defer cancel()
				err := change(ctx, managers[node])
				if happens != nil && errors.Is(err, apikey.ErrUnavailable) {
					gone.Add(1)
					node = 2 * (w % 2)
					err = change(ctx, managers[node])
				}
				c.count(t, what, err)
			}
			for n := range changes {
				k := keys[rand.N(len(keys))]
				if n == changes/2 && happens != nil {
					once.Do(happens)
				}
				switch {
				case n >= changes-3 && n < changes-1 && w < len(keys)*2:
					k = keys[w%len(keys)]
					do(safety, "revoke", func(ctx context.Context, m *apikey.Manager) error {
						return m.Revoke(ctx, apikey.RevokeRequest{Key: k.id, Reason: apikey.ReasonCompromised})
					}, k.account)
				case n%10 == 3:
					do(safety, "suspend", func(ctx context.Context, m *apikey.Manager) error {
						return m.Suspend(ctx, k.id)
					}, k.account)
					do(resumes, "resume", func(ctx context.Context, m *apikey.Manager) error {
						return m.Resume(ctx, apikey.ResumeRequest{Key: k.id})
					}, k.account)
				default:
					do(updates, "update", func(ctx context.Context, m *apikey.Manager) error {
						_, err := m.Update(ctx, apikey.UpdateRequest{Key: k.id, Name: apikey.Set(fmt.Sprintf("%d by %d", n, w))})
						return err
					}, k.account)
				}
			}
		})
	}
	wg.Wait()
	if happens != nil {
		t.Logf("%d calls were answered with ErrUnavailable and asked again elsewhere", gone.Load())
	}
}

// dead: every node says that the keys are revoked.
func dead(t *testing.T, managers []*apikey.Manager, keys []workKey) {
	t.Helper()
	for _, m := range managers {
		for _, k := range keys {
			info, err := m.Get(adminOf(k.account), k.id)
			must(t, err)
			if info.State != apikey.Revoked {
				t.Errorf("%s is %v", k.id, info.State)
			}
		}
	}
}
