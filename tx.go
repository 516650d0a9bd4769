package apikey

import (
	"context"
	"errors"
	"reflect"
)

// Tx is a Manager inside a caller's transaction: the merchant's row and the keys commit
// or roll back together. A Tx retries nothing and opens no second connection. Call
// [Tx.Committed] after the commit. Tx has only the methods that read, create, change or
// revoke a key.
//
// Like the transaction, a Tx belongs to one goroutine. While it is open, use no Manager
// or Verifier there: a Manager waits for locks of the transaction, and a Verifier waits
// for a connection if the pool has only one, both until their deadlines.
type Tx struct {
	s       session
	notices []notice
}

// Tx joins a transaction: joined is the return value of a store's In(tx). It must be on
// the same database, with the same prefix, as Settings.Store; that is not checked.
//
// If joined is in no transaction, each call would commit by itself, and the caller
// would believe that they can still roll it back. So every method of the Tx returns
// ErrInvalid if joined is nil, if joined is Settings.Store itself, or if joined
// has a method InTransaction() bool that returns false. A store without that method is
// trusted to be in a transaction.
func (m *Manager) Tx(joined Store) *Tx {
	t := &Tx{}
	t.s = session{Manager: m, store: joined, joined: true, tx: t, unfit: m.outside(joined)}
	return t
}

// outside returns an error if a store is in no transaction.
func (m *Manager) outside(joined Store) error {
	says, ok := joined.(interface{ InTransaction() bool })
	given, own := reflect.ValueOf(joined), reflect.ValueOf(m.settings.Store)
	switch {
	case joined == nil:
		return invalid("Manager.Tx was given no store: pass what the store's In(tx) returned")
	case given.Comparable() && own.Comparable() && joined == m.settings.Store:
		return invalid("Manager.Tx was given Settings.Store itself, which is in no transaction: pass what its In(tx) returned")
	case ok && !says.InTransaction():
		return invalid("Manager.Tx was given a store that is in no transaction: pass what its In(tx) returned")
	}
	return nil
}

// Issue is [Manager.Issue] inside the transaction.
func (t *Tx) Issue(ctx context.Context, req IssueRequest) (Issued, error) { return t.s.issue(ctx, req) }

// Provision is [Manager.Provision] inside the transaction.
func (t *Tx) Provision(ctx context.Context, req ProvisionRequest) (Provisioned, error) {
	return t.s.provision(ctx, req)
}

// Get is [Manager.Get] inside the transaction.
func (t *Tx) Get(ctx context.Context, id KeyID) (Info, error) { return t.s.get(ctx, id) }

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

// Committed announces the changes of the transaction to this node's Verifiers, the
// Notifier and OnEvent. Call it when the transaction is over. Without it the Verifiers
// learn of the changes at their next sync, and OnEvent never does.
//
// Committed reads each changed key again from Settings.Store, and announces only
// changes that are there. So it may be deferred, and it may be called after a rollback
// (also to a savepoint) or, by mistake, before the commit: a change that was rolled
// back is never announced. A change that was not there is looked for again at the next
// call.
//
// Committed goes on after ctx has ended, for 5 s at most. Its error is ErrUnavailable
// if the store could not be asked: then OnEvent has not been told of those changes, the
// Verifiers read these keys before their next answer, and Committed may be called
// again. If the pool has one connection, call Committed after the transaction has
// ended; otherwise it waits those 5 s for the connection.
func (t *Tx) Committed(ctx context.Context) error {
	if t.s.deaf() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
	defer cancel()
	after := aftermath{session: t.s.own(), keys: map[KeyID]*StoreRecord{}}
	var left []notice
	var failed []error
	for _, n := range t.notices {
		switch there, err := after.confirm(ctx, &n); {
		case err != nil:
			t.s.doubt(n.changes)
			failed = append(failed, err)
			left = append(left, n)
		case !there:
			left = append(left, n)
		default:
			t.s.tell(ctx, n)
		}
	}
	t.notices = left
	return errors.Join(failed...)
}

// deaf reports whether there is nobody to tell of a change.
func (m *Manager) deaf() bool {
	return len(m.verifiers.all()) == 0 && m.settings.Notifier == nil && m.cfg.OnEvent == nil
}

// aftermath reads the store after a transaction.
type aftermath struct {
	session
	keys map[KeyID]*StoreRecord // as they are stored now; nil: there is none
}

// confirm reports whether the changes of a notice are in the store, because nothing in
// a notice shows a rollback. It replaces the records that the transaction wrote by
// those that are stored now: others may have changed the key since.
func (a aftermath) confirm(ctx context.Context, n *notice) (there bool, err error) {
	n.start = a.settings.Now()
	changes := make([]StoreChange, len(n.changes))
	for i, c := range n.changes {
		now, err := a.record(ctx, c.Record.ID)
		if err != nil || now == nil {
			return false, err
		}
		if c.Event != nil {
			if there, err := a.has(ctx, c.Event, now); err != nil || !there {
				return false, err
			}
		}
		changes[i] = c
		changes[i].Record = now
	}
	n.changes = changes
	return true, nil
}

func (a aftermath) record(ctx context.Context, id KeyID) (*StoreRecord, error) {
	if r, ok := a.keys[id]; ok {
		return r, nil
	}
	r, err := a.store.Get(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		a.keys[id] = nil
	case err != nil:
		return nil, storeError(err)
	default:
		a.keys[id] = &r
	}
	return a.keys[id], nil
}

// has reports whether an event is in the log. Mostly the event is the newest of its
// key, and the record alone shows that.
func (a aftermath) has(ctx context.Context, e *StoreEvent, now *StoreRecord) (bool, error) {
	if now.Version <= e.Seq {
		return now.Version == e.Seq && now.Head == e.Hash, nil
	}
	for f := (StoreEventFilter{Key: e.Key}); ; {
		page, err := a.store.Events(ctx, f)
		if err != nil {
			return false, storeError(err)
		}
		for i := range page.Events {
			if page.Events[i].ID == e.ID {
				return page.Events[i].Hash == e.Hash, nil
			}
		}
		if f.After = page.Next; f.After == "" {
			return false, nil
		}
	}
}
