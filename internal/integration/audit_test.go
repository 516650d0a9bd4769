package integration

import (
	"strings"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/storetest"
)

// Whoever writes to the database changes one column of a key's log, in SQL, on
// every engine: VerifyEvents names the event, Events withholds its body. And a mark
// that they insert makes no pepper.
func TestFound05EventsAreCheckedInSQL(t *testing.T) {
	for _, e := range everywhere() {
		t.Run(e.name, func(t *testing.T) {
			db := e.pool(t, e.dsn(t))
			d, prefix := e.fresh(t)
			s := open(t, db, d)
			must(t, s.Migrate(t.Context()))
			m := newManager(t, s)
			key, err := m.Issue(adminOf("acc_1"), apikey.IssueRequest{Mode: apikey.Live})
			must(t, err)
			must(t, m.Suspend(adminOf("acc_1"), key.Key.ID))
			seen := func(doubt apikey.Doubt, role string, broken uint64) {
				t.Helper()
				report, err := m.VerifyEvents(adminOf("acc_1"), key.Key.ID)
				must(t, err)
				log, err := m.Events(adminOf("acc_1"), apikey.EventsRequest{Key: key.Key.ID})
				must(t, err)
				var at uint64
				if report.Broken != nil {
					at = report.Broken.Seq
				}
				for _, ev := range log.Events {
					if ev.Seq == 2 && (ev.Doubt != doubt || ev.Actor.Role != role) || ev.Seq == 1 && ev.Doubt != "" {
						t.Errorf("event %d: doubt %q, role %q", ev.Seq, ev.Doubt, ev.Actor.Role)
					}
				}
				if at != broken || len(log.Events) != 2 {
					t.Errorf("broken at %d: %+v, %d events shown", at, report, len(log.Events))
				}
			}
			seen("", "admin", 0)
			_, err = db.ExecContext(t.Context(), "UPDATE "+prefix+"events SET actor = 'usr_9' WHERE seq = 2")
			must(t, err)
			seen(apikey.DoubtFailed, "", 2)
			_, err = db.ExecContext(t.Context(), "UPDATE "+prefix+"events SET actor = 'usr_1' WHERE seq = 2")
			must(t, err)
			seen("", "admin", 0)

			mark := apikey.StoreItem{Kind: "pepper", ID: "33", Version: 1, Data: []byte(strings.Repeat("x", 32))}
			must(t, s.Apply(t.Context(), apikey.StoreChange{ID: storetest.NewKeyID(), Items: []apikey.StoreItem{mark}}))
			wants(t, m.AdoptPepper(adminOf("acc_1"), 33), apikey.ErrForbidden, "Operator")
			must(t, m.AdoptPepper(staff(), 33))
			newManager(t, s)
			seen("", "admin", 0)
		})
	}
}
