package apikey

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// An Ability is something that a key may do. This package has two forms, [Scope] and
// [Access], and neither allows the other. A program adds forms of its own with
// [CatalogEntry.Parse].
type Ability interface {
	// Allows reports whether holding this ability satisfies a requirement. It must be
	// false for every form of ability that the implementation does not know.
	Allows(required Ability) bool
	// String is the canonical text, which [Catalog.Parse] reads back.
	String() string
}

// Scope is an ability named by segments, such as "payment:refund". The last segment of
// a held scope may be the wildcard: "payment:*" allows "payment:refund" and
// "payment:refund:partial", but neither "payment" nor "payments:refund". No scope
// allows everything: a key names the families that it may use.
//
// Segments are lower-case letters, digits, '-', '_' and '.', joined by ':'. A scope has
// 2 to 8 segments and at most 100 bytes.
type Scope string

const (
	maxSegments = 8
	maxAbility  = 100
)

// ParseScope checks the form of a scope, not whether a catalog has it. Its error wraps
// ErrInvalid.
func ParseScope(s string) (Scope, error) {
	segments := strings.Split(s, ":")
	if len(s) > maxAbility || len(segments) < 2 || len(segments) > maxSegments {
		return "", malformed(s, "scope %s: want 2 to %d segments joined by ':', at most %d bytes, like payment:refund", quote(s), maxSegments, maxAbility)
	}
	for i, seg := range segments {
		if seg == "*" && i == len(segments)-1 {
			continue
		}
		if !isWord(seg) {
			return "", malformed(s, "scope %s: segments are lower-case letters, digits, '-', '_' and '.'; '*' may only be the last one", quote(s))
		}
	}
	return Scope(s), nil
}

// Allows reports whether required is this scope or, if this scope ends in a wildcard,
// one below it.
func (s Scope) Allows(required Ability) bool {
	want, ok := required.(Scope)
	if !ok || s == "" {
		return false
	}
	if s == want {
		return true
	}
	family, wild := strings.CutSuffix(string(s), "*")
	return wild && strings.HasSuffix(family, ":") &&
		len(want) > len(family) && strings.HasPrefix(string(want), family)
}

// String is the scope itself.
func (s Scope) String() string { return string(s) }

// UnmarshalText reads what [ParseScope] reads.
func (s *Scope) UnmarshalText(text []byte) (err error) {
	*s, err = ParseScope(string(text))
	return err
}

// Level is how much of a product a key may use. The zero Level means none: leave the
// product out of the key's abilities instead.
type Level uint8

const (
	// Read allows to fetch data.
	Read Level = 1
	// Write allows to act, and includes Read.
	Write Level = 2
)

// String is "read" or "write"; for any other value it has the number.
func (l Level) String() string { return nameOf(levelNames, l, "level") }

var levelNames = map[Level]string{Read: "read", Write: "write"}

// Access is an ability on a whole product at a level, such as "balance=read".
type Access struct {
	Product string
	Level   Level
}

// ParseAccess reads "product=read" or "product=write". Its error wraps
// ErrInvalid.
func ParseAccess(s string) (Access, error) {
	product, level, ok := strings.Cut(s, "=")
	if !ok || len(s) > maxAbility || !isWord(product) {
		return Access{}, malformed(s, "product level %s: want product=read or product=write", quote(s))
	}
	for l, name := range levelNames {
		if name == level {
			return Access{product, l}, nil
		}
	}
	return Access{}, malformed(s, "product level %s: the level is read or write; for none leave the product out", quote(s))
}

// Allows reports whether required is the same product at this level or a lower one.
func (a Access) Allows(required Ability) bool {
	want, ok := required.(Access)
	return ok && want.Product == a.Product && want.Level >= Read && want.Level <= a.Level
}

// String writes "product=level", which [ParseAccess] reads.
func (a Access) String() string { return a.Product + "=" + a.Level.String() }

// MarshalText writes the canonical text.
func (a Access) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what [ParseAccess] reads.
func (a *Access) UnmarshalText(text []byte) (err error) {
	*a, err = ParseAccess(string(text))
	return err
}

// CatalogEntry is one line of a [Catalog]. Exactly one of Scope, Product and Parse is
// set. Its JSON has everything but Parse, which is code.
type CatalogEntry struct {
	Scope   string `json:"scope,omitzero"`   // "payment:refund"
	Product string `json:"product,omitzero"` // "balance": both levels, read and write
	// Parse reads a form of ability of the program's own; false if the text is not of
	// that form. The String of the Ability must be the same text again.
	Parse       func(text string) (Ability, bool) `json:"-"`
	Description string                            `json:"description,omitzero"` // shown to merchants by the program
	// Publishable lets a publishable key hold this ability: the scope, or the product
	// at level read. Everybody on the Internet has that key.
	Publishable bool `json:"publishable"`
}

// Catalog is the closed list of abilities that keys may be given. It is
// immutable and safe for concurrent use.
type Catalog struct {
	entries []CatalogEntry
	byText  map[string]int // scope, product=read, product=write → entry
}

// NewCatalog returns an error that wraps ErrInvalid if an entry is empty, malformed or
// there twice.
func NewCatalog(entries ...CatalogEntry) (*Catalog, error) {
	c := &Catalog{entries: slices.Clone(entries), byText: map[string]int{}}
	for i, e := range entries {
		texts, err := e.texts()
		if err != nil {
			return nil, fmt.Errorf("catalog entry %d: %w", i, err)
		}
		for _, text := range texts {
			if _, twice := c.byText[text]; twice {
				return nil, invalid("catalog has %q twice", text)
			}
			c.byText[text] = i
		}
	}
	return c, nil
}

// MustCatalog is [NewCatalog] for package variables: it panics on an error.
func MustCatalog(entries ...CatalogEntry) *Catalog {
	c, err := NewCatalog(entries...)
	if err != nil {
		panic(err)
	}
	return c
}

func (e CatalogEntry) texts() ([]string, error) {
	set := 0
	for _, is := range []bool{e.Scope != "", e.Product != "", e.Parse != nil} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return nil, invalid("set exactly one of Scope, Product and Parse")
	case e.Scope != "":
		s, err := ParseScope(e.Scope)
		if err == nil && strings.HasSuffix(e.Scope, "*") {
			err = invalid("scope %q: a catalog lists what exists; keys may hold wildcards of it", e.Scope)
		}
		return []string{string(s)}, err
	case e.Product != "":
		if !isWord(e.Product) {
			return nil, invalid("product %s: lower-case letters, digits, '-', '_' and '.'", quote(e.Product))
		}
		return []string{e.Product + "=read", e.Product + "=write"}, nil
	}
	return nil, nil
}

// Entries returns the entries of the catalog, for a form that lists them.
func (c *Catalog) Entries() []CatalogEntry { return slices.Clone(c.entries) }

// Parse reads an ability that a key may be given. The error for an unknown one wraps
// ErrInvalid and names the nearest known ones. A wildcard scope must cover at least one
// scope of the catalog.
func (c *Catalog) Parse(text string) (Ability, error) {
	a, err := c.parseForm(text)
	if err != nil {
		return nil, err
	}
	if _, ok := c.byText[text]; ok || !builtin(a) || c.covers(a) {
		return a, nil
	}
	return nil, c.unknown(text)
}

// forms is how many forms of ability of its own the program defined.
func (c *Catalog) forms() (n int) {
	if c == nil {
		return 0
	}
	for _, e := range c.entries {
		if e.Parse != nil {
			n++
		}
	}
	return n
}

// parseForm reads any well-formed ability, known to the catalog or not: a
// stored key may hold one that a newer version of the program gave it.
func (c *Catalog) parseForm(text string) (Ability, error) {
	if c != nil {
		for _, e := range c.entries {
			if e.Parse == nil || len(text) > maxAbility {
				continue
			}
			if a, ok := e.Parse(text); ok && a != nil && a.String() == text {
				return a, nil
			}
		}
	}
	if strings.Contains(text, "=") {
		a, err := ParseAccess(text)
		return a, err
	}
	s, err := ParseScope(text)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// publishable reports whether everything that a allows may be held by a key
// that the whole Internet knows.
func (c *Catalog) publishable(a Ability) bool {
	if i, ok := c.byText[a.String()]; ok {
		access, level := a.(Access)
		return c.entries[i].Publishable && (!level || access.Level == Read)
	}
	if builtin(a) { // a wildcard covers what the catalog may have tomorrow
		return false
	}
	for _, e := range c.entries {
		if e.Parse != nil && e.Publishable {
			if got, ok := e.Parse(a.String()); ok && got != nil {
				return true
			}
		}
	}
	return false
}

func (c *Catalog) covers(a Ability) bool {
	for text := range c.byText {
		if s := Scope(text); a.Allows(s) {
			return true
		}
	}
	return false
}

// malformed refuses a text that is no ability of a built-in form.
func malformed(text, format string, args ...any) error {
	return wrong("", InvalidMalformed, format, args...).part(text)
}

// unknown refuses an ability that the catalog does not have.
func (c *Catalog) unknown(text string) error {
	says := fmt.Sprintf("ability %s is unknown", quote(text))
	near := c.nearest(text)
	if len(near) > 0 {
		says += "; nearest known: " + strings.Join(near, ", ")
	}
	err := wrong("", InvalidUnknown, "%s", says).part(text)
	err.Known = near
	return err
}

// nearest lists up to three known abilities that a typo may have meant.
func (c *Catalog) nearest(text string) []string {
	if len(text) > maxAbility {
		return nil
	}
	known := slices.Sorted(maps.Keys(c.byText))
	slices.SortStableFunc(known, func(x, y string) int { return distance(text, x) - distance(text, y) })
	return known[:min(3, len(known))]
}

func builtin(a Ability) bool {
	switch a.(type) {
	case Scope, Access:
		return true
	}
	return false
}

// canAll is the one loop behind every Can and every Require. It returns the
// first ability that nothing held allows, or nil.
func canAll(held []Ability, required []Ability) Ability {
next:
	for _, want := range required {
		if want == nil { // a bug of the caller: never satisfied, and no form is asked about it
			return Scope("(nil)")
		}
		for _, have := range held {
			if have.Allows(want) {
				continue next
			}
		}
		return want
	}
	return nil
}

// isWord reports whether s is one segment.
func isWord(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return s != ""
}

// distance is Levenshtein's, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost = 1 + min(diagonal, row[j], row[j-1])
			}
			diagonal, row[j] = row[j], cost
		}
	}
	return row[len(b)]
}

// forms keeps the lists of abilities that records were read with. Merchants have few
// different lists. If many keys share a list, it is read once, takes memory once, and
// is in the processor's cache when the next of these keys is verified. The number of
// lists is bounded, because the store says what is in them.
type forms struct {
	mu    sync.RWMutex
	lists map[string]*abilities
}

// abilities is the list of abilities of one record, or of all records with the same
// list. It is never changed.
type abilities struct {
	held   []Ability
	shared bool // kept in forms
}
