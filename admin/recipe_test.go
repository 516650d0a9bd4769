package admin_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
	"github.com/go-apikey/apikey/apikeytest"
)

// session is what a program keeps about somebody who is signed in.
type session struct{ person, account, role string }

// keyAPI serves /api/v1/keys and the other routes. find is your own: it finds the session
// of a request by its cookie, and nil if there is none.
func keyAPI(m *apikey.Manager, find func(*http.Request) (*session, error)) (http.Handler, error) {
	api, err := admin.New(admin.Config{Manager: m, Actor: func(r *http.Request) (apikey.Actor, error) {
		s, err := find(r)
		if err != nil {
			return apikey.Actor{}, err // 503, and logged
		} else if s == nil {
			return apikey.Actor{}, admin.ErrSignIn // 401
		}
		return apikey.Actor{ID: s.person, Account: s.account, Role: s.role, Addr: client(r)}, nil
	}, Logger: slog.Default()})
	return http.StripPrefix("/api", api), err
}

// client returns the address that the one proxy before this program has seen. Without a
// proxy anybody could send the header. An empty address becomes that of the connection.
func client(r *http.Request) string {
	entries := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	return strings.TrimSpace(entries[len(entries)-1])
}

func TestRecipes(t *testing.T) {
	p := apikeytest.New(t)
	sessions := map[string]*session{"a": {"anna", "acc_1", "admin"}}
	h, err := keyAPI(p.Manager, func(r *http.Request) (*session, error) {
		cookie, err := r.Cookie("session")
		if err != nil || cookie.Value == "ended" {
			return nil, nil
		}
		if cookie.Value == "broken" {
			return nil, errors.New("the sessions are away")
		}
		return sessions[cookie.Value], nil
	})
	require.NoError(t, err)
	server := httptest.NewServer(h)
	defer server.Close()
	do := func(cookie string, q request) reply {
		t.Helper()
		if q.header == nil {
			q.header = map[string]string{}
		}
		q.header["Cookie"] = "session=" + cookie
		a, err := send(server.URL, q)
		require.NoError(t, err)
		return a
	}
	for cookie, status := range map[string]int{"a": 200, "ended": 401, "other": 401, "broken": 503} {
		require.Equal(t, status, do(cookie, request{path: "/keys"}).status, cookie)
	}
	for _, c := range []struct{ header, addr string }{
		{"", "127.0.0.1"}, {"192.0.2.7", "192.0.2.7"}, {"10.9.9.9, 192.0.2.7", "192.0.2.7"},
	} {
		made := do("a", request{method: "POST", path: "/keys", body: map[string]any{"mode": "live"}, header: map[string]string{"X-Forwarded-For": c.header}})
		require.Equal(t, 201, made.status, made.text)
		events := do("a", request{path: "/keys/" + made.body["key"].(map[string]any)["id"].(string) + "/events"})
		require.Contains(t, events.text, `"addr":"`+c.addr+`"`)
		require.NotContains(t, events.text, "10.9.9.9")
	}
}

// The Go that docs/admin.md shows is what TestRecipes executes, to the letter.
func TestRecipesAreThisCode(t *testing.T) {
	source, err := os.ReadFile("recipe_test.go")
	require.NoError(t, err)
	page, err := os.ReadFile("../docs/admin.md")
	require.NoError(t, err)
	recipes, test, ok := strings.Cut(string(source), "\nfunc TestRecipes(")
	require.True(t, ok)
	require.Contains(t, test, "keyAPI(")
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	require.Len(t, blocks, 2)
	for _, block := range blocks {
		require.Contains(t, recipes, "\n"+block[1], "this code of the page is not in recipe_test.go")
	}
	require.LessOrEqual(t, strings.Count(string(page), "\n"), 200, "lines: the page is read at once")
}
