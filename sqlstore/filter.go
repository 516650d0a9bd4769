package sqlstore

import (
	"slices"
	"time"

	"github.com/go-apikey/apikey"
)

// The SQL in this file is the same for every engine: the conditions of a filter on the
// columns of apikey_keys (with the alias stored, for subqueries on another table), and
// the whole query of the activity log.

// keys adds the conditions of a filter, as [apikey.StoreFilter.Match] defines them. Only
// contains is the engine's own, because it ignores the case of letters.
func (b *builder) keys(f apikey.StoreFilter, contains func(*builder, string)) {
	if f.Account != "" {
		b.where("account = ", b.arg(f.Account))
	}
	if f.Mode != 0 {
		b.where("mode = ", b.arg(int64(f.Mode)))
	}
	if f.Kind != 0 {
		b.where("kind = ", b.arg(int64(f.Kind)))
	}
	switch f.State {
	case 0:
	case apikey.Active:
		b.where("revoked_at IS NULL AND NOT disabled")
	case apikey.Suspended:
		b.where("revoked_at IS NULL AND disabled")
	case apikey.Revoked:
		b.where("revoked_at IS NOT NULL")
	default:
		b.where("FALSE")
	}
	if f.NameContains != "" {
		contains(b, f.NameContains)
	}
	b.secrets(f)
	b.times(f)
}

// secrets adds the conditions on the peppers and KEKs of a key.
func (b *builder) secrets(f apikey.StoreFilter) {
	if f.Pepper != 0 {
		slot := b.arg([]byte{f.Pepper})
		b.where("(substr(mac, 1, 1) = ", slot, " OR ", credential, "NOT c.ended AND c.pepper = ", b.arg(int64(f.Pepper)), "))")
	}
	if f.OtherMAC != 0 {
		b.where("(mac IS NULL OR substr(mac, 1, 1) <> ", b.arg([]byte{f.OtherMAC}), ")")
	}
	if f.Untagged {
		b.where(credential, "NOT c.ended AND c.pepper = 0)")
	}
	if f.SealedKEKNot != "" {
		b.where(credential, "c.sealed_kek <> '' AND c.sealed_kek <> ", b.arg(f.SealedKEKNot), ")")
	}
}

func (b *builder) times(f apikey.StoreFilter) {
	if f.NeverUsed {
		b.where("NOT ", credential, "c.last_used IS NOT NULL)")
	}
	if !f.UnusedSince.IsZero() {
		b.where(b.time("created_at", "<", f.UnusedSince))
		b.where("NOT ", credential, b.time("c.last_used", ">=", f.UnusedSince), ")")
	}
	if !f.ExpiringBefore.IsZero() {
		b.where(b.time("expires_at", "<", f.ExpiringBefore))
	}
	if !f.NotExpiredAt.IsZero() {
		b.where("(expires_at IS NULL OR ", b.time("expires_at", ">", f.NotExpiredAt), ")")
	}
	if !f.DueBefore.IsZero() {
		b.where(b.time("rotate_due", "<=", f.DueBefore))
	}
}

// time returns the comparison of a column with a caller's time. A time before the first
// or after the last that the column can hold is not passed to the engine, which would
// fail or, worse, read it as a different time.
func (b *builder) time(column, than string, t time.Time) string {
	less := than[0] == '<'
	switch {
	case t.Before(earliest) && less, t.After(b.latest) && !less:
		return "FALSE"
	case t.Before(earliest), t.After(b.latest):
		return column + " IS NOT NULL"
	case than == "<", than == ">=":
		return column + " " + than + " " + b.arg(ceil(t))
	}
	return column + " " + than + " " + b.arg(at(t))
}

// credential begins a condition that some credential c of the key has to meet.
const credential = "EXISTS (SELECT 1 FROM apikey_credentials c WHERE c.key_id = stored.id AND "

// below and above add the condition that continues a list after a page, in the order of
// column and then ID. They do not compare row values, (column, id) < (?, ?), because
// MariaDB uses no index for that.
func (b *builder) below(column string, page *position) { b.beyond(column, "<", page) }
func (b *builder) above(column string, page *position) { b.beyond(column, ">", page) }

func (b *builder) beyond(column, than string, page *position) {
	if page == nil {
		return
	}
	end := page.in(column)
	b.where(column, " ", than, "= ", b.arg(end))
	b.where("(", column, " ", than, " ", b.arg(end), " OR id ", than, " ", b.arg(page.id), ")")
}

// events is the query of a page of the activity log: the newest events first, or a key's
// chain from its beginning.
func (b *builder) events(f apikey.StoreEventFilter, after *position, limit int) query {
	f.Actions = distinct(f.Actions)
	if len(f.Actions) > 1 && f.Account != "" && f.Key.IsZero() {
		b.eventsOfActions(f, after, limit)
		return b.query()
	}
	b.add("SELECT ", b.fit, ", ", eventColumns, " FROM apikey_events")
	b.log(f, after, limit)
	return b.query()
}

const eventColumns = "id, time, account, mode, key_id, credential, seq, actor, action, body, hash"

// eventsOfActions reads a page for each action, by the index of that action, and the
// newest of all these. With one condition, action IN (…), an index could either find the
// actions or be in the order of time: the engine would read through the account's whole
// log for a rare action, or sort all events of a frequent one. Until the page is known,
// only times and IDs are read, because MariaDB sorts rows with blobs on disk.
func (b *builder) eventsOfActions(f apikey.StoreEventFilter, after *position, limit int) {
	b.add("SELECT ", b.fit, ", ", eventColumns, " FROM (")
	for i, action := range f.Actions {
		if i > 0 {
			b.add(" UNION ALL ")
		}
		one := f
		one.Actions = []apikey.Action{action}
		b.add("SELECT * FROM (SELECT time AS page_time, id AS page_id FROM apikey_events")
		b.log(one, after, limit)
		b.add(") of_action")
	}
	const order = " ORDER BY page_time DESC, page_id DESC LIMIT "
	b.add(order, b.arg(limit), ") page JOIN apikey_events ON id = page_id", order, b.arg(limit))
}

// log adds the conditions of a filter, as [apikey.StoreEventFilter.Match] defines them,
// and the order and the length of the page.
func (b *builder) log(f apikey.StoreEventFilter, after *position, limit int) {
	b.word = ""
	column := func(name string) string { return name }
	if !f.Key.IsZero() {
		b.where("key_id = ", b.arg(f.Key[:]))
		column = unindexed
	}
	if f.Account != "" {
		b.where(column("account"), " = ", b.arg(f.Account))
	}
	if f.Mode != 0 {
		b.where("mode = ", b.arg(int64(f.Mode)))
	}
	if f.Actor != "" {
		b.where(column("actor"), " = ", b.arg(f.Actor))
	}
	if len(f.Actions) > 0 {
		b.where(column("action"), " IN (")
		for i, action := range f.Actions {
			b.add(comma(i), b.arg(string(action)))
		}
		b.add(")")
	}
	if !f.Since.IsZero() {
		b.where(b.time("time", ">=", f.Since))
	}
	order := " ORDER BY time DESC, id DESC LIMIT "
	if f.Chain {
		order = " ORDER BY seq, id LIMIT "
		b.where("seq <> 0")
		b.before(f.Before)
		b.above("seq", after)
	} else {
		b.newest(f.Before, after)
	}
	b.add(order, b.arg(limit))
}

// unindexed hides a column of text from the indexes. A key has few events: to find them
// by the account and another column, as SQLite would, can read far more.
func unindexed(column string) string { return "COALESCE(" + column + ", '')" }

// newest adds the upper bound of a page of the log: the time before which the events
// are, or the place where the page continues, whichever is earlier. With both SQLite
// would begin at one of them, and for each page read again what the pages before it had.
func (b *builder) newest(before time.Time, page *position) {
	if page == nil || !before.IsZero() && page.at >= ceil(before).micros {
		b.before(before)
		return
	}
	b.below("time", page)
}

func (b *builder) before(t time.Time) {
	if !t.IsZero() {
		b.where(b.time("time", "<", t))
	}
}

// distinct sorts the actions and leaves out repeated ones, so that no event is found
// twice.
func distinct(actions []apikey.Action) []apikey.Action {
	return slices.Compact(slices.Sorted(slices.Values(actions)))
}
