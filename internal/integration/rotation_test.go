package integration

import (
	"context"
	"database/sql"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/memstore"
	"github.com/go-apikey/apikey/sqlstore"
)

// 336 rotations (16 keys, 21 in a row each), with -full 1,000 (10 keys, 100 each; overlap
// 500 ms) on one node, under 16 clients that call the other node over HTTP all the
// time and fetch their token every 100 ms. Nobody who holds a valid token is refused, and no
// token is accepted after its end; each answer is checked against the windows
// that Rotate returned.
func TestRotatingUnderClients(t *testing.T) {
	keys, rotations := 16, 21
	if *full {
		keys, rotations = 10, 100
	}
	for name, open := range map[string]func(*testing.T) apikey.Store{
		"memstore": func(*testing.T) apikey.Store { return memstore.New() },
		"sqlite":   openSQLite,
		"postgres": func(t *testing.T) apikey.Store { s, _ := named("postgres/pgx")[0].migrated(t); return s },
		"mariadb":  func(t *testing.T) apikey.Store { s, _ := named("mariadb/interpolated")[0].migrated(t); return s },
	} {
		t.Run(name, func(t *testing.T) { rotateUnderClients(t, open(t), keys, rotations, 16) })
	}
}

func openSQLite(t *testing.T) apikey.Store {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "keys.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_txlock=immediate")
	must(t, err)
	t.Cleanup(func() { db.Close() })
	store, err := sqlstore.New(db, sqlstore.SQLite)
	must(t, err)
	must(t, store.Migrate(context.Background()))
	return store
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shop is one key and what its clients know of it.
type shop struct {
	key     apikey.KeyID
	mu      sync.Mutex
	current apikey.Token
	ends    map[string]ending // by token
}

// ending is when a token is over: the first instant at which it may be refused,
// and that from which it must be. They differ only where the commit was so slow
// that the other node could not have heard of the end in time.
type ending struct{ may, must time.Time }

// heard is how long after Rotate returned the other node, which asks every
// 100 ms, has to know.
const heard = 300 * time.Millisecond

func (s *shop) token() apikey.Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// wrong judges an answer to a request that was under way from sent to got.
func (s *shop) wrong(token string, sent, got time.Time, accepted bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	end, ending := s.ends[token]
	switch {
	case !ending || got.Before(end.may):
		return !accepted
	case !sent.Before(end.must):
		return accepted
	}
	return false // it ended while the request was under way: either is right
}

func rotateUnderClients(t *testing.T, store apikey.Store, keys, rotations, clients int) {
	ctx := context.Background()
	var pepperKey [32]byte
	pepperKey[0] = 1
	pepper, err := apikey.NewPepper(1, pepperKey)
	must(t, err)
	hasher, err := apikey.NewHMACSHA256(pepper)
	must(t, err)
	settings := apikey.Settings{
		Store: store, Prefix: "acme", Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:verify"}),
		Hashers: []apikey.Hasher{hasher}, Peppers: []apikey.Pepper{pepper},
	}
	m, err := apikey.NewManager(ctx, settings, apikey.ManagerConfig{})
	must(t, err)
	defer m.Close(ctx)
	vc := apikey.VerifierConfig{Mode: apikey.Live}
	_, err = m.NewVerifier(ctx, vc) // every change is announced to it as well
	must(t, err)
	// The other node has only the feed. It hears of an end that is half a second
	// away in time because it asks more often than that.
	vc.Sync = 100 * time.Millisecond
	there, err := apikey.NewVerifier(ctx, settings, vc)
	must(t, err)
	defer there.Close(ctx)
	api := httptest.NewServer(httpauth.New(there, httpauth.Config{}).Require()(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	defer api.Close()

	ctx = apikey.WithActor(ctx, apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	shops := make([]*shop, keys)
	for i := range shops {
		issued, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
		must(t, err)
		shops[i] = &shop{key: issued.Key.ID, current: issued.Token, ends: map[string]ending{}}
	}
	var asked, refused, late, slow atomic.Int64
	calling, stop := context.WithCancel(ctx)
	var callers, rotators sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	for i := range clients {
		callers.Go(func() {
			s := shops[i%len(shops)]
			token, fetched := s.token().Reveal(), time.Now()
			old := token
			for n := 0; calling.Err() == nil; n++ {
				if time.Since(fetched) > 100*time.Millisecond {
					if next := s.token().Reveal(); next != token {
						old, token = token, next
					}
					fetched = time.Now()
				}
				use := token
				if n%8 == 7 { // now and then the one before, which may be over
					use = old
				}
				time.Sleep(2 * time.Millisecond) // leave a processor to the two nodes
				sent := time.Now()
				accepted, err := call(calling, client, api.URL, use)
				if err != nil {
					continue
				}
				asked.Add(1)
				if s.wrong(use, sent, time.Now(), accepted) {
					if accepted {
						late.Add(1)
					} else {
						refused.Add(1)
					}
				}
			}
		})
	}
	start := time.Now()
	for _, s := range shops {
		rotators.Go(func() {
			for range rotations {
				next, err := m.Rotate(ctx, apikey.RotateRequest{Key: s.key, Overlap: 500 * time.Millisecond})
				if err != nil {
					t.Error(err)
					return
				}
				known := time.Now().Add(heard)
				s.mu.Lock()
				for c := range next.Key.Credentials.All() {
					if c.ID == s.current.Credential() {
						end := ending{c.NotAfter, c.NotAfter}
						if known.After(end.must) {
							end.must = known
							slow.Add(1)
						}
						s.ends[s.current.Reveal()] = end
					}
				}
				s.current = next.Token
				s.mu.Unlock()
				time.Sleep(510 * time.Millisecond)
			}
		})
	}
	rotators.Wait()
	stop()
	callers.Wait()
	t.Logf("%d rotations in %v under %d requests by %d clients: valid requests refused %d, old tokens accepted after their end %d (commits slower than 200 ms: %d)",
		keys*rotations, time.Since(start).Round(time.Second), asked.Load(), clients, refused.Load(), late.Load(), slow.Load())
	if refused.Load() != 0 || late.Load() != 0 || asked.Load() < int64(keys*rotations) {
		t.Fail()
	}
}

func call(ctx context.Context, client *http.Client, url, token string) (accepted bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := client.Do(r)
	if err != nil {
		return false, err
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK, nil
}
