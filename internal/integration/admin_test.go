package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
	"github.com/go-apikey/apikey/sqlstore"
)

// sqliteFiller adds keys of other accounts, as fillers does for the other dialects.
var sqliteFiller = []string{
	`WITH RECURSIVE c(n) AS (VALUES (%[1]d) UNION ALL SELECT n + 1 FROM c WHERE n < %[2]d)
INSERT INTO t_keys (id, account, name, mode, kind, version, head, needs, mac, abilities, networks, origins, metadata, disabled, revoke_reason, rotate_months, recovery, created_at, feed, event)
SELECT randomblob(16), 'f' || n %% 1000, 'filler', 1, 1, 1, randomblob(32), 0, randomblob(33), '["payment:refund"]', '[]', '[]', '{}', 0, '', 0, 0, 1704067200000000 + n * 1000000, -n, randomblob(16) FROM c`,
}

// adminOver serves the API of a Manager. The header X-Account of a request says which
// account's member is signed in.
func adminOver(t *testing.T, m *apikey.Manager) string {
	t.Helper()
	api, err := admin.New(admin.Config{Manager: m, Actor: func(r *http.Request) (apikey.Actor, error) {
		account := r.Header.Get("X-Account")
		return apikey.Actor{ID: "usr_1", Account: account, Role: "admin"}, nil
	}})
	must(t, err)
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	return server.URL
}

type listed struct {
	Data []struct{ ID, Name, State string }
	Next string
}

func readPage(url, account, query string) (page listed, err error) {
	r, err := http.NewRequest("GET", url+"/v1/keys?"+query, nil)
	if err != nil {
		return page, err
	}
	r.Header.Set("X-Account", account)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return page, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != 200 {
		err = fmt.Errorf("%d %s", res.StatusCode, text)
	}
	if err == nil {
		err = json.Unmarshal(text, &page)
	}
	return page, err
}

// A page of 50 keys over HTTP, of accounts with 100 keys, where there are many keys of a
// thousand accounts. With -full there are 100,000.
func TestAdminListAtScale(t *testing.T) {
	size, rounds := 5_000, 2
	if *full {
		size, rounds = 100_000, 40
	}
	const accounts, each = 20, 100
	for _, e := range named("sqlite/modernc", "postgres/pgx", "mariadb/interpolated") {
		t.Run(e.name, func(t *testing.T) {
			d, prefix := e.fresh(t)
			db := e.pool(t, e.roomy(t))
			s := open(t, db, d)
			must(t, s.Migrate(t.Context()))
			m := newManager(t, s, func(c *managing) { c.Limits.LiveKeys = each })
			for i := range accounts * each {
				_, err := m.Issue(adminOf(fmt.Sprintf("acc_%d", i%accounts)), apikey.IssueRequest{Mode: apikey.Live, Name: fmt.Sprintf("key %d", i)})
				must(t, err)
			}
			statements := fillers[e.dialect]
			if e.dialect == sqlstore.SQLite {
				statements = sqliteFiller
			}
			for _, statement := range statements {
				statement = strings.NewReplacer("t_keys", prefix+"keys", "t_credentials", prefix+"credentials").Replace(statement)
				if strings.Contains(statement, "INSERT") {
					statement = fmt.Sprintf(statement, accounts*each+1, size)
				}
				_, err := db.Exec(statement)
				must(t, err)
			}
			url := adminOver(t, m)
			var took []time.Duration
			for range rounds {
				for i := range accounts {
					account, cursor := fmt.Sprintf("acc_%d", i), ""
					for range each / 50 {
						query := "limit=50"
						if cursor != "" {
							query += "&cursor=" + cursor
						}
						begun := time.Now()
						page, err := readPage(url, account, query)
						must(t, err)
						took = append(took, time.Since(begun))
						if len(page.Data) != 50 {
							t.Fatalf("%d keys", len(page.Data))
						}
						cursor = page.Next
					}
				}
			}
			slices.Sort(took)
			t.Logf("%d keys: a page of 50 over HTTP: p50 %v, p99 %v, of %d", size, took[len(took)/2], took[len(took)*99/100], len(took))
		})
	}
}

// An account's keys are read page by page while sixteen writers issue, edit and suspend keys:
// each key that was there all the time is seen exactly once.
func TestAdminListWhileKeysChange(t *testing.T) {
	t.Parallel()
	size := 1_000
	if *full {
		size = 10_000
	}
	for _, e := range named("sqlite/modernc", "postgres/pgx", "mariadb/interpolated") {
		t.Run(e.name, func(t *testing.T) {
			s, _ := e.migrated(t)
			m := newManager(t, s, func(c *managing) { c.Limits.LiveKeys, c.Limits.Keys = 100_000, 100_000 })
			var stay, change []apikey.KeyID // all, and those of them that are edited and suspended
			for i := range size {
				k, err := m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live, Name: fmt.Sprint("key ", i)})
				must(t, err)
				if i%10 == 0 {
					change = append(change, k.Key.ID)
				}
				stay = append(stay, k.Key.ID)
			}
			url := adminOver(t, m)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			var writes, failed [16]int
			for w := range 16 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						var err error
						switch rand.IntN(3) {
						case 0:
							_, err = m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
						case 1:
							_, err = m.Update(adminOf("acc_1"), apikey.UpdateRequest{Key: change[rand.IntN(len(change))], Name: apikey.Set(fmt.Sprint("new ", rand.Int()))})
						default:
							err = m.Suspend(adminOf("acc_1"), change[rand.IntN(len(change))])
						}
						writes[w]++
						if err != nil {
							failed[w]++
						}
					}
				})
			}
			seen := map[string]int{}
			pages, cursor := 0, ""
			for {
				query := "limit=50"
				if cursor != "" {
					query += "&cursor=" + cursor
				}
				page, err := readPage(url, "acc_1", query)
				if err != nil {
					close(stop)
					wg.Wait()
					t.Fatal(err)
				}
				for _, k := range page.Data {
					seen[k.ID]++
				}
				pages++
				if cursor = page.Next; cursor == "" {
					break
				}
			}
			close(stop)
			wg.Wait()
			wrong := 0
			for _, id := range stay {
				if seen[id.String()] != 1 {
					wrong++
				}
			}
			all, allFailed := 0, 0
			for w := range writes {
				all, allFailed = all+writes[w], allFailed+failed[w]
			}
			t.Logf("%d keys in %d pages beside %d writes (%d failed): seen other than once: %d", size, pages, all, allFailed, wrong)
			if wrong != 0 || all < 16 {
				t.Error("a key was left out, or shown twice")
			}
		})
	}
}
