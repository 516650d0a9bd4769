package sqlstore

import (
	"context"
	"fmt"

	"github.com/go-apikey/apikey"
)

// noTx is the Store that In returns for a nil transaction. All its methods fail: without
// a transaction each write would be committed at once, while the caller expects to be
// able to roll it back.
type noTx struct{}

var _ apikey.Store = noTx{}

var errNoTx = fmt.Errorf("%w: sqlstore: In was given a nil *sql.Tx: look at the error of BeginTx", apikey.ErrInvalid)

func (noTx) Get(context.Context, apikey.KeyID) (apikey.StoreRecord, error) {
	return apikey.StoreRecord{}, errNoTx
}

func (noTx) Lookup(context.Context, apikey.CredentialID) (apikey.StoreRecord, error) {
	return apikey.StoreRecord{}, errNoTx
}

func (noTx) List(context.Context, apikey.StoreFilter) (apikey.StorePage, error) {
	return apikey.StorePage{}, errNoTx
}

func (noTx) Events(context.Context, apikey.StoreEventFilter) (apikey.StoreEventPage, error) {
	return apikey.StoreEventPage{}, errNoTx
}

func (noTx) Changed(context.Context, apikey.Cursor, int) (apikey.StoreChanges, error) {
	return apikey.StoreChanges{}, errNoTx
}

func (noTx) Items(context.Context, apikey.StoreItemFilter) (apikey.StoreItemPage, error) {
	return apikey.StoreItemPage{}, errNoTx
}

func (noTx) Apply(context.Context, ...apikey.StoreChange) error { return errNoTx }

func (noTx) Upkeep(context.Context, []apikey.StoreUpkeep) error { return errNoTx }
