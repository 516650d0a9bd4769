package apikeytest_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/apikeytest"
)

// A test of a program sets what the test is about, and leaves the rest to New.
func Example() {
	test := func(t *testing.T) {
		p := apikeytest.New(t, func(s *apikey.Settings, _ *apikey.ManagerConfig) {
			s.Catalog = apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:refund"})
		})
		key := p.Issue("acc_1", apikey.IssueRequest{
			Mode: apikey.Live, Abilities: []string{"payment:refund"}, ExpiresAt: p.Clock.Now().Add(time.Hour),
		})
		refund := apikey.Request{Require: []apikey.Ability{apikey.Scope("payment:refund")}}
		if _, err := p.Live.Verify(context.Background(), key.Token.Reveal(), refund); err != nil {
			t.Error(err)
		}
		p.Clock.Move(time.Hour)
		if _, err := p.Live.Verify(context.Background(), key.Token.Reveal(), refund); err != apikey.ErrExpired {
			t.Error(err)
		}
	}
	_ = test // go test calls it: func TestExpiry(t *testing.T)
}
