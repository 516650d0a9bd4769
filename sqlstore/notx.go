package sqlstore

import (
	"context"
	"fmt"

	"github.com/go-apikey/apikey"
)

// noTx is the store in no transaction: to go on without one would commit by
// itself what the caller believes can still be rolled back.
type noTx struct{}

var _ apikey.Store = noTx{}

var errNoTx = fmt.Errorf("%w: sqlstore: In was given a nil *sql.Tx: look at the error of BeginTx", apikey.ErrInvalid)

func (noTx) Get(context.Context, apikey.KeyID) (apikey.Record, error) {
	return apikey.Record{}, errNoTx
}

func (noTx) Lookup(context.Context, apikey.CredentialID) (apikey.Record, error) {
	return apikey.Record{}, errNoTx
}

func (noTx) List(context.Context, apikey.Filter) (apikey.Page, error) {
	return apikey.Page{}, errNoTx
}

func (noTx) Events(context.Context, apikey.EventFilter) (apikey.EventPage, error) {
	return apikey.EventPage{}, errNoTx
}

func (noTx) Changed(context.Context, apikey.Cursor, int) (apikey.Changes, error) {
	return apikey.Changes{}, errNoTx
}

func (noTx) Items(context.Context, apikey.ItemFilter) (apikey.ItemPage, error) {
	return apikey.ItemPage{}, errNoTx
}

func (noTx) Apply(context.Context, ...apikey.Change) error { return errNoTx }

func (noTx) Upkeep(context.Context, []apikey.Upkeep) error { return errNoTx }
