package apikey

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// valid checks what a merchant sets, at issue and update: it brings the listed settings
// to canonical form and enforces the limits. validEnd checks the expiry. An update
// lists only the settings that it changes. So a key can still be narrowed and resumed
// if it holds an ability that the catalog has dropped since, or more than a lower limit
// allows now.
func (s session) valid(r *StoreRecord, list []setting) error {
	checks := make([]error, len(list))
	for i, what := range list {
		checks[i] = what.check(s, r)
	}
	return allWrong(checks...)
}

func validMode(m Mode) error {
	const text = "IssueRequest.Mode is required: apikey.Live or apikey.Test"
	switch m {
	case Live, Test:
		return nil
	case 0:
		return wrong("mode", InvalidRequired, text)
	}
	return wrong("mode", InvalidUnknown, text)
}

func validKind(k Kind) error {
	if !traits(k).bearer {
		return wrong("kind", InvalidUnknown, "Kind is %v: want apikey.Secret or apikey.Publishable", k)
	}
	return nil
}

func (s session) validName(r *StoreRecord) error {
	if err := storableText("name", r.Name, s.limits.NameBytes); err != nil {
		return err
	}
	return showable(r.Name)
}

// showable refuses a name that can mislead a reader, because it has one of these:
//   - control characters, which end a line of a log
//   - characters that turn the direction of the text beside them ("trojan source",
//     CVE-2021-42574)
//   - invisible characters, by which two names look alike or hide a text
//
// Invisible characters that scripts and emoji are written with are accepted where they
// belong: see joins. A name that was stored before is not checked, so that its key can
// be read, and everything else of the key changed.
func showable(name string) error {
	visible := name == ""
	runes := []rune(name)
	for i, r := range runes {
		before, after := rune(0), rune(0)
		if i > 0 {
			before = runes[i-1]
		}
		if i+1 < len(runes) {
			after = runes[i+1]
		}
		switch {
		case unicode.Is(unicode.Variation_Selector, r): // selects the form of the character before it
			if !unicode.IsGraphic(before) || unicode.IsSpace(before) || unicode.Is(unicode.Variation_Selector, before) {
				return unshowable(r)
			}
		case isTag(r): // a flag is spelled with these
			if !inFlag(runes, i) {
				return unshowable(r)
			}
		case r == zwj || r == zwnj:
			if !joins(before, r, after) {
				return unshowable(r)
			}
		case unicode.Is(unicode.Prepended_Concatenation_Mark, r): // visible signs around Arabic numbers
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point, unicode.Noncharacter_Code_Point), r == brailleBlank:
			return unshowable(r)
		case !unicode.IsSpace(r):
			visible = true
		}
	}
	if !visible {
		return wrong("name", InvalidBlank, "the name has nothing that is seen: leave it empty, or write one")
	}
	return nil
}

const (
	zwj          = '\u200D' // zero-width joiner
	zwnj         = '\u200C' // zero-width non-joiner
	brailleBlank = '\u2800' // its class is symbol, and it looks like a blank
	blackFlag    = '\U0001F3F4'
	cancelTag    = '\U000E007F'
)

func unshowable(r rune) error {
	text := fmt.Sprintf("U+%04X", r)
	return wrong("name", InvalidHidden, "name has the character %s, which controls the text or is not seen: leave it out", text).part(text)
}

// joins reports whether a joiner stands inside a word, where Persian, Bangla and
// other scripts write it (also at a word's end, after the mark that it changes), or
// between two parts of an emoji.
func joins(before, joiner, after rune) bool {
	part := func(r rune) bool { return unicode.In(r, unicode.L, unicode.M) }
	emoji := func(r rune) bool { return unicode.In(r, unicode.So, unicode.Sk, unicode.M) && r != brailleBlank }
	return part(before) && part(after) || unicode.Is(unicode.M, before) || joiner == zwj && emoji(before) && emoji(after)
}

func isTag(r rune) bool { return r >= '\U000E0020' && r <= cancelTag }

// inFlag reports whether the tag at i is part of a flag, such as that of Wales: a black
// flag, up to six letters, and the end. More tags can hide a text.
func inFlag(runes []rune, i int) bool {
	first, end := i, i
	for first > 0 && isTag(runes[first-1]) {
		first--
	}
	for end < len(runes) && runes[end] != cancelTag {
		end++
	}
	return first > 0 && runes[first-1] == blackFlag && end < len(runes) && end-first <= 6
}

func atMost(field string, got, limit int) error {
	if got > limit {
		return wrong(field, InvalidTooMany, "%d %s, at most %d", got, field, limit).within(0, limit)
	}
	return nil
}

func (s session) validMetadata(r *StoreRecord) error {
	l := s.limits
	if err := atMost("metadata", len(r.Metadata), l.MetadataPairs); err != nil {
		return err
	}
	for name, value := range (Metadata{r.Metadata}).All() { // sorted: the same request gets the same answer
		var err *InvalidError
		switch {
		case name == "":
			err = wrong("metadata", InvalidBlank, "metadata: a name is empty; names are not empty")
		case !storable(name) || !storable(value):
			err = wrong("metadata", InvalidText, "metadata %s: name and value are valid UTF-8 without NUL", quote(name))
		case len(name) > l.MetadataName:
			err = wrong("metadata", InvalidTooLong, "metadata: the name %s has %d bytes, at most %d", quote(name), len(name), l.MetadataName).within(0, l.MetadataName)
		case len(value) > l.MetadataValue:
			err = wrong("metadata", InvalidValueTooLong, "metadata %s: the value has %d bytes, at most %d", quote(name), len(value), l.MetadataValue).within(0, l.MetadataValue)
		default:
			continue
		}
		return err.part(name)
	}
	return nil
}

// maxBatch is the most that one call reads of a table; a limit of 0 is usualBatch.
const (
	maxBatch   = 1000
	usualBatch = 100
)

// batchSize checks the limit of a call that goes through a table in parts.
func batchSize(limit int) error {
	if limit < 0 || limit > maxBatch {
		return wrong("limit", InvalidOutOfRange, "limit is %d: want 1 to %d, or 0 for %d", limit, maxBatch, usualBatch).within(0, maxBatch)
	}
	return nil
}

func (s session) validAbilities(r *StoreRecord) error {
	if err := atMost("abilities", len(r.Abilities), s.limits.Abilities); err != nil {
		return err
	}
	slices.Sort(r.Abilities)
	r.Abilities = slices.Compact(r.Abilities)
	for _, text := range r.Abilities {
		a, err := s.settings.Catalog.Parse(text)
		if err != nil {
			return ofField("abilities", err)
		}
		if !traits(r.Kind).sealed && !s.settings.Catalog.publishable(a) {
			return wrong("abilities", InvalidNotPublishable, "ability %s cannot be given to a publishable key, which is in every visitor's browser", quote(text)).part(text)
		}
	}
	return nil
}

// hasProducts asks ManagerConfig.Products about every ability of a record. The record
// has to be valid: Products is called for abilities of the catalog alone, and for a
// valid account and mode.
func (s session) hasProducts(r *StoreRecord) error {
	for _, text := range r.Abilities {
		a, err := s.settings.Catalog.Parse(text)
		if err != nil {
			return ofField("abilities", err)
		}
		if err := s.hasProduct(r, a); err != nil {
			return err
		}
	}
	return nil
}

// hasProduct asks whether the account may have an ability at all.
func (s session) hasProduct(r *StoreRecord, a Ability) error {
	if s.cfg.Products == nil {
		return nil
	}
	if err := s.cfg.Products(r.Account, r.Mode, a); err != nil {
		return joined(ErrStanding, err)
	}
	return nil
}

// products asks ManagerConfig.Products about every ability of a key that is resumed or
// would do more: an account that may not have an ability any more must not get it by an
// old key. An ability that the catalog has dropped is not asked about.
func (s session) products(a Actor, j job, plan []planned) error {
	for _, p := range plan {
		if p.is == nil {
			continue // a new key: blank asks
		}
		for _, text := range p.would.Abilities {
			ability, err := s.settings.Catalog.Parse(text)
			if err != nil {
				continue
			}
			if err := s.hasProduct(p.would, ability); err != nil {
				s.denied(a, j, err)
				return err
			}
		}
	}
	return nil
}

func (s session) validNetworks(r *StoreRecord) error {
	if err := atMost("networks", len(r.Networks), s.limits.Networks); err != nil {
		return err
	}
	for i, n := range r.Networks {
		if !n.IsValid() {
			return wrong("networks", InvalidMalformed, "network %d is not a valid prefix: want 203.0.113.0/24 or 2001:db8::/32", i)
		}
		if n.Addr().Is4In6() {
			if n.Bits() < 96 {
				return wrong("networks", InvalidMalformed, "network %s covers more than the IPv4 addresses: write 0.0.0.0/0 for those", n).part(n.String())
			}
			n = netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
		}
		r.Networks[i] = n.Masked()
	}
	slices.SortFunc(r.Networks, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	r.Networks = slices.Compact(r.Networks)
	return nil
}

func (s session) validOrigins(r *StoreRecord) error {
	if err := atMost("origins", len(r.Origins), s.limits.Origins); err != nil {
		return err
	}
	for i, o := range r.Origins {
		c := canonicalOrigin(o)
		if c == "" {
			return wrong("origins", InvalidMalformed, "origin %s: want what a browser sends: scheme and host, like https://shop.example, without path or wildcard, and other letters as xn--", quote(o)).part(o)
		}
		r.Origins[i] = c
	}
	slices.Sort(r.Origins)
	r.Origins = slices.Compact(r.Origins)
	return nil
}

const maxRotateMonths = 120

func (s session) validRotateMonths(r *StoreRecord) error {
	if r.RotateMonths < 0 || r.RotateMonths > maxRotateMonths {
		return wrong("rotate_months", InvalidOutOfRange, "RotateMonths is %d: want 0 (never) to %d", r.RotateMonths, maxRotateMonths).within(0, maxRotateMonths)
	}
	return nil
}
