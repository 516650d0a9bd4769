package apikey

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// settable are what a merchant sets of a key, by their names in events.
var settable = []string{"name", "abilities", "expires_at", "networks", "origins", "metadata", "rotate_months", "disabled"}

// valid checks what a merchant sets, at issue and update: it brings the named
// fields to their one form and enforces the limits. The expiry is validEnd's, and
// disabled cannot be wrong. An update names only what it changes, so that a key
// which holds an ability that the catalog has dropped since, or more than a lower
// limit allows now, can still be narrowed and resumed.
func (s session) valid(r *Record, names []string) error {
	for _, name := range names {
		var err error
		switch name {
		case "name":
			err = s.validName(r)
		case "abilities":
			err = s.validAbilities(r)
		case "networks":
			err = s.validNetworks(r)
		case "origins":
			err = s.validOrigins(r)
		case "metadata":
			err = s.validMetadata(r)
		case "rotate_months":
			if r.RotateMonths < 0 || r.RotateMonths > 120 {
				err = invalid("RotateMonths is %d: want 0 (never) to 120", r.RotateMonths)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// validOwner checks what a key is born with and never changes.
func validOwner(r *Record) error {
	switch {
	case r.Mode != Live && r.Mode != Test:
		return invalid("IssueRequest.Mode is required: apikey.Live or apikey.Test")
	case r.Account == "" || len(r.Account) > 255 || !storable(r.Account):
		return invalid("account %s: want 1 to 255 bytes of valid UTF-8", quote(r.Account))
	case r.Kind != Secret && r.Kind != Publishable:
		return invalid("Kind is %v: want apikey.Secret or apikey.Publishable", r.Kind)
	}
	return nil
}

func (s session) validName(r *Record) error {
	switch {
	case len(r.Name) > s.limits.NameBytes:
		return fmt.Errorf("%w: name has %d bytes, at most %d", ErrLimit, len(r.Name), s.limits.NameBytes)
	case !storable(r.Name):
		return invalid("name is not valid UTF-8, or has a NUL")
	}
	return nil
}

func atMost(got, limit int, what string) error {
	if got > limit {
		return fmt.Errorf("%w: %d %s, at most %d", ErrLimit, got, what, limit)
	}
	return nil
}

func (s session) validMetadata(r *Record) error {
	l := s.limits
	for name, value := range r.Metadata {
		switch {
		case name == "" || !storable(name) || !storable(value):
			return invalid("metadata %s: names are not empty, and both are valid UTF-8 without NUL", quote(name))
		case len(name) > l.MetadataName || len(value) > l.MetadataValue:
			return fmt.Errorf("%w: metadata %s has %d + %d bytes, at most %d + %d", ErrLimit, quote(name), len(name), len(value), l.MetadataName, l.MetadataValue)
		}
	}
	return atMost(len(r.Metadata), l.MetadataPairs, "metadata pairs")
}

func (s session) validAbilities(r *Record) error {
	if err := atMost(len(r.Abilities), s.limits.Abilities, "abilities"); err != nil {
		return err
	}
	slices.Sort(r.Abilities)
	r.Abilities = slices.Compact(r.Abilities)
	for _, text := range r.Abilities {
		a, err := s.catalog.Parse(text)
		if err != nil {
			return err
		}
		if r.Kind == Publishable && !s.catalog.publishable(a) {
			return invalid("ability %s cannot be given to a publishable key, which is in every visitor's browser", quote(text))
		}
		if s.cfg.Products != nil {
			if err := s.cfg.Products(r.Account, r.Mode, a); err != nil {
				return joined(ErrStanding, err)
			}
		}
	}
	return nil
}

func (s session) validNetworks(r *Record) error {
	if err := atMost(len(r.Networks), s.limits.Networks, "networks"); err != nil {
		return err
	}
	for i, n := range r.Networks {
		if !n.IsValid() {
			return invalid("network %d is not a valid prefix: want 203.0.113.0/24 or 2001:db8::/32", i)
		}
		if n.Addr().Is4In6() {
			if n.Bits() < 96 {
				return invalid("network %s covers more than the IPv4 addresses: write 0.0.0.0/0 for those", n)
			}
			n = netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
		}
		r.Networks[i] = n.Masked()
	}
	slices.SortFunc(r.Networks, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	r.Networks = slices.Compact(r.Networks)
	return nil
}

func (s session) validOrigins(r *Record) error {
	if err := atMost(len(r.Origins), s.limits.Origins, "origins"); err != nil {
		return err
	}
	for i, o := range r.Origins {
		c := canonicalOrigin(o)
		if c == "" {
			return invalid("origin %s: want scheme and host, like https://shop.example, without path or wildcard", quote(o))
		}
		r.Origins[i] = c
	}
	slices.Sort(r.Origins)
	r.Origins = slices.Compact(r.Origins)
	return nil
}

// fieldsSet names what an issue event calls changed.
func fieldsSet(r *Record) []string {
	fields := []string{"name", "abilities"}
	for name, set := range map[string]bool{
		"expires_at": !r.ExpiresAt.IsZero(), "networks": len(r.Networks) > 0, "origins": len(r.Origins) > 0,
		"metadata": len(r.Metadata) > 0, "rotate_months": r.RotateMonths > 0, "disabled": r.Disabled,
	} {
		if set {
			fields = append(fields, name)
		}
	}
	return fields
}
