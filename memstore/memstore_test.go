package memstore_test

import (
	"testing"

	"github.com/go-apikey/apikey/memstore"
	"github.com/go-apikey/apikey/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Backend {
		s := memstore.New()
		return storetest.Backend{
			Store: s,
			Purge: s.Purge,
			Backup: func(*testing.T) func(*testing.T) {
				restore := s.Snapshot()
				return func(*testing.T) { restore() }
			},
		}
	})
}
