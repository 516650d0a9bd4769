package apikey

import "time"

// Status says in one word what a key can do at an instant: what a key page shows as a
// coloured dot. [State] alone cannot say it, because a key also expires by the clock.
type Status string

// The statuses, in their order: if several hold, the first one counts.
const (
	// StatusRevoked: the key is refused for ever.
	StatusRevoked Status = "revoked"
	// StatusSuspended: the key is refused until it is resumed.
	StatusSuspended Status = "suspended"
	// StatusExpired: ExpiresAt has come.
	StatusExpired Status = "expired"
	// StatusNotYetValid: no token of the key is valid yet, and one will be: a rotation is
	// pending, and the token before it was retired.
	StatusNotYetValid Status = "not_yet_valid"
	// StatusExpiring: the key works, and expires soon.
	StatusExpiring Status = "expiring"
	// StatusActive: none of the others. If each token in Credentials has ended, no token
	// proves the key until it is rotated; its status is StatusActive (or StatusExpiring)
	// all the same, because the key itself may be used.
	StatusActive Status = "active"
)

// Status returns the status of the key at now, as far as this Info knows: it describes
// the key as it was when the Info was returned. A key whose ExpiresAt is before now plus
// soon is StatusExpiring; soon 0: no key is.
//
// At the same instant, [Verifier.Verify] refuses every token of a key that is revoked,
// suspended, expired or not yet valid. An Info from Verify lists no credentials, and is
// never StatusNotYetValid: its token has begun.
func (i Info) Status(now time.Time, soon time.Duration) Status {
	expires := !i.ExpiresAt.IsZero()
	switch {
	case i.State == Revoked:
		return StatusRevoked
	case i.State == Suspended:
		return StatusSuspended
	case expires && !now.Before(i.ExpiresAt):
		return StatusExpired
	case i.waits(now):
		return StatusNotYetValid
	case expires && i.ExpiresAt.Before(now.Add(soon)):
		return StatusExpiring
	}
	return StatusActive
}

// waits reports whether a token begins after now, and none is valid at now.
func (i Info) waits(now time.Time) bool {
	later := false
	for c := range i.Credentials.All() {
		switch {
		case c.Ended:
		case now.Before(c.NotBefore):
			later = true
		case c.NotAfter.IsZero() || now.Before(c.NotAfter):
			return false
		}
	}
	return later
}
