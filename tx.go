package apikey

import "context"

// Tx is a Manager inside a caller's transaction: the merchant's row and his
// keys commit or roll back together. Nothing in it is retried, and no second
// connection is opened. Call Committed after the commit. Like the transaction it
// belongs to one goroutine; while it is open use nothing else there: a Manager
// waits for its locks, and where the pool has one connection a Verifier waits for
// that, until their deadlines. Only what creates, changes or ends a key is here.
type Tx struct {
	s       session
	notices []notice
}

// Tx joins a transaction: joined is what a store's In(tx) returned, never the
// Store itself, which would commit each call by itself. It is of the database, and
// has the prefix, of ManagerConfig.Store; that is not checked.
func (m *Manager) Tx(joined Store) *Tx {
	t := &Tx{}
	t.s = session{Manager: m, store: joined, joined: true, tx: t}
	return t
}

// Issue is [Manager.Issue] inside the transaction.
func (t *Tx) Issue(ctx context.Context, req IssueRequest) (Issued, error) { return t.s.issue(ctx, req) }

// Provision is [Manager.Provision] inside the transaction.
func (t *Tx) Provision(ctx context.Context, req ProvisionRequest) (Provisioned, error) {
	return t.s.provision(ctx, req)
}

// Get is [Manager.Get] inside the transaction.
func (t *Tx) Get(ctx context.Context, req GetRequest) (Info, error) { return t.s.get(ctx, req) }

// List is [Manager.List] inside the transaction.
func (t *Tx) List(ctx context.Context, req ListRequest) (KeyList, error) { return t.s.list(ctx, req) }

// Update is [Manager.Update] inside the transaction.
func (t *Tx) Update(ctx context.Context, req UpdateRequest) (Info, error) {
	return t.s.update(ctx, req)
}

// Rotate is [Manager.Rotate] inside the transaction.
func (t *Tx) Rotate(ctx context.Context, req RotateRequest) (Issued, error) {
	return t.s.rotate(ctx, req)
}

// Revoke is [Manager.Revoke] inside the transaction.
func (t *Tx) Revoke(ctx context.Context, req RevokeRequest) error { return t.s.revoke(ctx, req) }

// Committed says that the caller's commit succeeded: this node's Verifiers, the
// Notifier and OnEvent hear of it. Without it they learn at the next sync. After
// a rollback do not call it, and nothing was ever told.
func (t *Tx) Committed(ctx context.Context) {
	for _, n := range t.notices {
		t.s.tell(ctx, n)
	}
	t.notices = nil
}
