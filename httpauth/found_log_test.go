package httpauth_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/httpauth"
	"github.com/go-apikey/apikey/memstore"
)

// A flood of requests that end in a 5xx writes only a few lines to the log.
func TestFound07AFloodFillsNoLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, err := apikey.NewVerifier(t.Context(), apikey.Settings{Store: memstore.New(), Prefix: "acme"}, apikey.VerifierConfig{Mode: apikey.Live})
		require.NoError(t, err)
		require.NoError(t, v.Close(context.Background())) // from now on every answer is a 503
		var log bytes.Buffer
		g := httpauth.New(v, httpauth.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		handler := g.Require()(nil)
		token := junkToken(t)
		for range 4000 {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Authorization", "Bearer "+token)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			require.GreaterOrEqual(t, w.Code, 500)
		}
		lines := strings.Count(log.String(), "\n")
		require.Positive(t, lines)
		require.LessOrEqual(t, lines, 10)
	})
}

func junkToken(t *testing.T) string {
	t.Helper()
	ctx := apikey.WithActor(t.Context(), apikey.Actor{ID: "usr_1", Account: "acc_1", Role: "admin"})
	m, err := apikey.NewManager(ctx, apikey.Settings{Store: memstore.New(), Prefix: "acme", Catalog: apikey.MustCatalog(apikey.CatalogEntry{Scope: "a:b"})}, apikey.ManagerConfig{})
	require.NoError(t, err)
	issued, err := m.Issue(ctx, apikey.IssueRequest{Mode: apikey.Live})
	require.NoError(t, err)
	return issued.Token.Reveal()
}
