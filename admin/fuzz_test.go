package admin_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
)

// FuzzRequests sends any path, query, headers and body to every route: nothing panics, and
// what a client sends wrongly is never our failure.
func FuzzRequests(f *testing.F) {
	var api http.Handler
	var rows []sound
	f.Add(uint8(0), "", "", `{"mode":"live","name":"x","abilities":["payment:charge"],"expires_at":"2027-01-01T00:00:00Z","networks":["192.0.2.1"],"metadata":{"shop":"1"},"approval":{"factor":"email"}}`)
	f.Add(uint8(3), "If-Match: \"1\"", "limit=1&cursor=x.y&mode=live", `{"at":"2027-01-01T00:00:00Z","overlap_seconds":60,"replace":true}`)
	f.Add(uint8(9), "Idempotency-Key: k", "actions=key.issue,key.rotate&since=2026-01-01T00:00:00Z", `{"ids":["01890a5d-ac96-774b-bcce-b302099a8057"],"reason":"x"}`)
	f.Add(uint8(12), "If-Match: W/\"2\"", "unused_for=90", `{"name":null,"expires_at":null,"networks":["::1"],"disabled":true}`)
	f.Add(uint8(20), "Sec-Fetch-Site: same-origin", "usable=true", `{"approval":{"challenge":"x","answer":"y"}}`)
	f.Add(uint8(24), "X-Request-Id: r", "", `{"factor":"totp","approval":{"factor":"password","resend":true}}`)
	f.Fuzz(func(t *testing.T, route uint8, header, query, body string) {
		if api == nil { // once a process: the workers of a fuzz run are processes
			e := newEnv(t, guardAll)
			made, err := apikey.NewManager(context.Background(), e.settings, e.manager)
			if err != nil {
				t.Fatal(err)
			}
			c := e.config
			c.Manager = made
			if api, err = admin.New(c); err != nil {
				t.Fatal(err)
			}
			info := e.issued()
			rows = target{live: info, suspended: info, planned: info, rotating: info, old: info.Credential}.requests()
		}
		row := rows[int(route)%len(rows)]
		r := httptest.NewRequest(row.method, "http://shop.example/v1"+row.path, strings.NewReader(body))
		r.URL.RawQuery = query
		r.Header.Set("Origin", "http://shop.example")
		r.Header.Set("X-User", anna)
		r.Header.Set("Content-Type", "application/json")
		for name, value := range row.header {
			r.Header.Set(name, value)
		}
		if name, value, ok := strings.Cut(header, ": "); ok && name != "X-User" {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%s %s?%s: %d %s", row.method, row.path, query, w.Code, w.Body)
		}
	})
}
