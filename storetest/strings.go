package storetest

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-apikey/apikey"
)

var hostileStrings = []testCase{
	{"records", "any valid UTF-8 without NUL comes back byte for byte from every column of a record", stringsInRecords},
	{"events", "any valid UTF-8 without NUL comes back byte for byte from every column of an event", stringsInEvents},
	{"items", "any valid UTF-8 without NUL comes back byte for byte from every column of an item, and names it exactly", stringsInItems},
	{"accounts", "accounts compare byte by byte", stringsAsAccounts},
	{"actors and actions", "Actor and Actions of a StoreEventFilter compare byte by byte", stringsAsActors},
	{"hashes", "OldHash compares byte by byte", stringsAsHashes},
	{"KEKs", "SealedKEKNot compares byte by byte", stringsAsKEKs},
	{"IDs", "IDs are sixteen bytes of any value and compare byte by byte", bytesAsIDs},
}

// hostile has texts that a careless store would change or confuse: by quoting, pattern
// matching, Unicode normalisation, case folding, padding, collation or overflow. No two
// of them are equal.
var hostile = []string{
	"a", "A", "ä", "Ä", "a\u0308", "å", "a ", " a", "a\t", "a\n", "a\u00a0", "a\u200b",
	"é", "e\u0301", "ß", "ss", "SS", "ẞ", "ﬀ", "ff", "i", "I", "ı", "İ", "K", "\u212A",
	"'", "''", `"`, "`", `\`, `\\`, `\'`, `\n`, "%", "_", "a%", "a_", "100%_\\", "[a]", "*", "?",
	"'; DROP TABLE records; --", "' OR '1'='1", "/* */", "-- ", "#", "$1", ":name", "@p1", "{}", "%s%d%n",
	"null", "NULL", "0", "00", "1e3", "0x0A", "true", "\\x41", "\\u0041",
	"a,b", "a;b", "a|b", "[1,2]", `{"a":"b"}`, `","`, "a=b&c", "<b>&amp;</b>", "</script>",
	"\r\n", "\x01", "\x1b[31m", "\x7f", "\u0085", "\u2028", "\ufeffa", "\ufffd", "\uffff", "\U0010FFFF",
	"\u202Egnp.exe", "\u2066a\u2069", "😀", "👩\u200d👩\u200d👧", "🇮🇩", "\uff41", "日本語", "العربية", "𝔘", "\u0301",
	" ", "  ", "\u3000",
}

// cut shortens s to at most n bytes, between two characters.
func cut(s string, n int) string {
	for len(s) > n {
		_, last := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-last]
	}
	return s
}

// wordy returns a change with s in every string column. If a column has a maximal size,
// s is cut to this size.
func (e *env) wordy(s string) apikey.StoreChange {
	r := e.record(cut(s, 255))
	r.Name, r.RevokeReason = s, apikey.Reason(cut(s, 200))
	r.Abilities = []string{s, "", s + s, "last"}
	r.Origins = []string{"first", s, ""}
	r.Metadata = map[string]string{s: s, s + "2": "", "": s}
	c := &r.Credentials[0]
	c.Hint, c.Public, c.Hash, c.SealedKEK = cut(s, 4), s, s, cut(s, 255)
	c.Sealed = []byte(s)
	change := e.write(r)
	change.Event.Actor, change.Event.Action = cut(s, 255), apikey.Action(cut(s, 64))
	change.Items = []apikey.StoreItem{{
		Kind: apikey.StoreItemKind(cut(s, 32)), ID: cut(s, 255), Version: 1, SealedKEK: cut(s, 255), Data: []byte(s),
	}}
	return change
}

// long returns texts of the greatest length that the contract requires a store to keep.
func long() []string {
	return []string{strings.Repeat("x", 2048), strings.Repeat("ä", 1024), strings.Repeat("😀", 512), strings.Repeat("'", 2048), strings.Repeat("%\\", 1024)}
}

func stringsInRecords(e *env) {
	for _, s := range slices.Concat(hostile, long()) {
		c := e.wordy(s)
		c.Items = nil
		e.apply(c)
		e.comesBack(fmt.Sprintf("%.20q", s), c)
		*c.Record = next(*c.Record, func(r *apikey.StoreRecord) { r.Name, r.Credentials[0].Hint = "", "" })
		e.apply(e.write(*c.Record))
		*c.Record = next(*c.Record, func(r *apikey.StoreRecord) { r.Name, r.Credentials[0].Hint = s, cut(s, 4) })
		e.apply(e.write(*c.Record))
		e.equal(fmt.Sprintf("%.20q written by an update", s), e.get(c.Record.ID), *c.Record)
	}
}

func stringsInEvents(e *env) {
	var all []apikey.StoreEvent
	for _, s := range slices.Concat(hostile, long()) {
		c := e.wordy(s)
		c.Record, c.Items = nil, nil
		c.Event.Body = []byte(s)
		e.apply(c)
		all = append(all, *c.Event)
	}
	slices.Reverse(all)
	e.equal("Events", e.events(apikey.StoreEventFilter{}), all)
}

func stringsInItems(e *env) {
	all := map[string]apikey.StoreItem{}
	for _, s := range slices.Concat(hostile, long()) {
		it := e.wordy(s).Items[0]
		e.apply(writeItems(it))
		e.equal(fmt.Sprintf("Items of kind %q", it.Kind), e.items(apikey.StoreItemFilter{Kind: it.Kind, ID: it.ID}), []apikey.StoreItem{it})

		it.Kind, it.Data = "test", []byte(s)
		all[it.ID] = it
		e.apply(writeItems(it))
	}
	for id, want := range all {
		got, _ := e.item(id)
		e.equal(fmt.Sprintf("item %.20q", id), got, want)
	}
	e.equal("items of one kind", len(e.items(apikey.StoreItemFilter{Kind: "test", Limit: 10})), len(all))

	gone := all["a"]
	gone.Version, gone.Delete = 2, true
	e.apply(writeItems(gone))
	e.equal("items after the deletion of one", len(e.items(apikey.StoreItemFilter{Kind: "test"})), len(all)-1)
	if _, ok := e.item("a"); ok {
		e.Error("the item that was deleted is still there")
	}
}

func stringsAsAccounts(e *env) {
	accounts := append(hostile[:len(hostile):len(hostile)], strings.Repeat("x", 255), strings.Repeat("x", 254)+"X", strings.Repeat("ä", 127))
	records := map[string]apikey.StoreRecord{}
	for _, account := range accounts {
		records[account] = e.record(account)
		e.apply(e.write(records[account]))
	}
	for account, r := range records {
		e.equal(fmt.Sprintf("List of %.20q", account), e.list(apikey.StoreFilter{Account: account}), []apikey.StoreRecord{r})
		e.equal(fmt.Sprintf("Events of %.20q", account), len(e.events(apikey.StoreEventFilter{Account: account})), 1)
	}
}

func stringsAsActors(e *env) {
	texts := append(hostile[:len(hostile):len(hostile)], strings.Repeat("x", 64), strings.Repeat("x", 63)+"X")
	key := NewKeyID()
	want := map[string]apikey.StoreEvent{}
	for i, s := range texts {
		c := e.note([]string{"acct", "Acct"}[i%2])
		c.Event.Actor, c.Event.Action, c.Event.Key = s, apikey.Action(s), key
		e.apply(c)
		want[s] = *c.Event
	}
	for s, ev := range want {
		for what, f := range map[string]apikey.StoreEventFilter{
			"Actor": {Actor: s}, "Actor of an account": {Actor: s, Account: ev.Account}, "Actor and key": {Actor: s, Account: ev.Account, Key: key},
			"Actions": {Actions: []apikey.Action{ev.Action}}, "Actions of an account": {Actions: []apikey.Action{ev.Action, "none"}, Account: ev.Account},
			"Actions and key": {Actions: []apikey.Action{ev.Action, "none"}, Account: ev.Account, Key: key},
		} {
			e.equal(fmt.Sprintf("%s %.20q", what, s), e.events(f), []apikey.StoreEvent{ev})
		}
	}
	for _, f := range []apikey.StoreEventFilter{{Actor: strings.Repeat("x", 300)}, {Actions: []apikey.Action{apikey.Action(strings.Repeat("x", 300)), "none"}, Account: "acct"}} {
		e.equal("Events of a text that is longer than any", len(e.events(f)), 0)
	}
}

func stringsAsHashes(e *env) {
	stored := []string{"a", "ä", "hash", "%", "_", "1", `\`}
	other := append(hostile[:len(hostile):len(hostile)], "hash ", "HASH", "hash\n", "01", "1.0", "")
	for _, hash := range stored {
		r := e.record("acct")
		r.Credentials[0].Hash = hash
		e.apply(e.write(r))
		var batch []apikey.StoreUpkeep
		for _, old := range other {
			if old != hash {
				batch = append(batch, apikey.StoreUpkeep{Credential: r.Credentials[0].ID, OldHash: old, NewHash: "taken", NewCheck: []byte("taken")})
			}
		}
		e.upkeep(batch...)
		e.equal(fmt.Sprintf("%q after swaps of other hashes", hash), e.get(r.ID), r)
	}
}

func stringsAsKEKs(e *env) {
	var all []apikey.StoreItem
	for i, kek := range slices.Concat(hostile, []string{""}) {
		it := item(fmt.Sprintf("%03d", i), 1, "")
		it.SealedKEK = kek
		all = append(all, it)
	}
	e.apply(writeItems(all...))
	for i, kek := range hostile {
		want := slices.Concat(all[:i], all[i+1:len(hostile)])
		e.equal(fmt.Sprintf("SealedKEKNot %q", kek), e.items(apikey.StoreItemFilter{Kind: "test", SealedKEKNot: kek}), want)
	}
}

func bytesAsIDs(e *env) {
	var records []apikey.StoreRecord
	for _, id := range []string{
		"AAAAAAAAAAAAAAAA", "aaaaaaaaaaaaaaaa", "AAAAAAAAAAAAAAA ", "AAAAAAAAAAAAAAA\x00", "               a", "a               ",
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", "\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "'''''''''''''''\\", "%%%%%%%%%%%%%%%_", "\xc3\xa4\xc3\x28\x80\x80\x80\x80\n\r\t\x1a\x00'\"\\",
	} {
		r := e.record("acct")
		r.ID, r.Credentials[0].ID = apikey.KeyID([]byte(id)), apikey.CredentialID([]byte(id))
		c := e.write(r)
		c.ID = [16]byte([]byte(id))
		c.Event.ID = c.ID
		e.apply(c)
		records = append(records, r)
	}
	for _, r := range records {
		e.equal("Get", e.get(r.ID), r)
		got, err := e.Store.Lookup(e.ctx, r.Credentials[0].ID)
		e.ok(err)
		e.equal("Lookup", got, r)
		e.equal("chain", len(e.events(apikey.StoreEventFilter{Key: r.ID, Chain: true})), 1)
		e.upkeep(apikey.StoreUpkeep{Credential: r.Credentials[0].ID, LastUsed: epoch})
	}
	e.equal("List by 5", len(e.list(apikey.StoreFilter{Limit: 5})), len(records))
}
