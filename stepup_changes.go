package apikey

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
)

// changesOf says, in lines for people, what a plan does to keys: enough to tell a small
// change from a total one.
func (c *core) changesOf(plan []planned) (lines []string) {
	for _, p := range plan {
		switch {
		case p.is == nil:
			lines = append(lines, newKey(p.would)...)
		case p.is != p.would:
			lines = append(lines, changedFields(p.is, p.would)...)
		}
	}
	return lines
}

// newKey describes a key that is to be made.
func newKey(r *StoreRecord) []string {
	lines := []string{
		fmt.Sprintf("a new %s key, %s", r.Kind, r.Mode),
		"abilities: " + some(r.Abilities),
		"expires: " + moment(r.ExpiresAt),
		"networks: " + networks(r.Networks),
		"origins: " + origins(r.Origins),
	}
	if r.Recoverable {
		lines = append(lines, "its token can be shown again")
	}
	if r.Disabled {
		lines = append(lines, "it is suspended at first")
	}
	return lines
}

// changedFields describes what an update does to a key. Origins and networks are only
// counted, because a mail program makes links of their texts.
func changedFields(is, would *StoreRecord) (lines []string) {
	changed := differences(is, would)
	slices.SortFunc(changed, func(a, b setting) int { return strings.Compare(a.name(), b.name()) })
	for _, s := range changed {
		lines = append(lines, s.line(is, would))
	}
	return lines
}

// origins says how many origins a list has; an empty list restricts nothing.
func origins(list []string) string {
	if len(list) == 0 {
		return "any"
	}
	return fmt.Sprint(len(list), " listed")
}

// networks says how many networks a list has, and how wide the widest is: one address
// and all addresses are one entry each.
func networks(list []netip.Prefix) string {
	if len(list) == 0 {
		return "any"
	}
	widest := slices.MinFunc(list, func(a, b netip.Prefix) int {
		return cmp.Compare(a.Bits()-a.Addr().BitLen(), b.Bits()-b.Addr().BitLen())
	})
	for _, n := range list {
		if n.Bits() == 0 {
			return fmt.Sprintf("%d listed, among them every %s address", len(list), version(n))
		}
	}
	return fmt.Sprintf("%d listed, the widest an %s /%d", len(list), version(widest), widest.Bits())
}

func version(n netip.Prefix) string {
	if n.Addr().Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// replaced says how many entries of two lists differ, if neither is empty.
func replaced[T comparable](is, would []T) string {
	if len(is) == 0 || len(would) == 0 {
		return ""
	}
	without := func(list, other []T) (n int) {
		for _, e := range list {
			if !slices.Contains(other, e) {
				n++
			}
		}
		return n
	}
	return fmt.Sprintf("; %d added, %d removed", without(would, is), without(is, would))
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2 January 2006 15:04 MST")
}

func gainsAndLosses(is, would []string) string {
	without := func(list, other []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(a string) bool { return slices.Contains(other, a) })
	}
	var parts []string
	if gained := without(would, is); len(gained) > 0 {
		parts = append(parts, "adds "+some(gained))
	}
	if lost := without(is, would); len(lost) > 0 {
		parts = append(parts, "removes "+some(lost))
	}
	return strings.Join(parts, "; ")
}

// some lists the first eight, and says how many more there are.
func some(list []string) string {
	const shown = 8
	switch {
	case len(list) == 0:
		return "none"
	case len(list) > shown:
		return fmt.Sprintf("%s and %d more", strings.Join(list[:shown], ", "), len(list)-shown)
	}
	return strings.Join(list, ", ")
}

// quoteForMail quotes a text that somebody has typed, for a mail with a code. The
// person who names a key writes into that mail, and mail programs make a link of
// "evil.example/login": characters that addresses are made of become '_'.
func quoteForMail(s string) string {
	const longest = 60
	runes := []rune(s)
	if len(runes) > longest {
		runes = append(runes[:longest], '…')
	}
	for i, r := range runes {
		plain := unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.So, unicode.Sk) || strings.ContainsRune(" -'(),+&#…", r) || r == zwj || r == zwnj
		if !plain {
			runes[i] = '_'
		}
	}
	return `"` + string(runes) + `"`
}
