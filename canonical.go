package apikey

import "time"

// Times that are computed have the same bounds as times that are given: what
// the years of RFC 3339 can write. encoding/json refuses any other, and one such
// time would keep a whole list of keys from being written.
var (
	firstInstant = time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC) // the zero time means none
	lastInstant  = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
)

// micros is the one place where times are brought to the precision that every
// engine keeps: UTC, whole microseconds, truncated.
func micros(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Microsecond)
}

// notTooFar refuses a time after the year 9999, whether a caller gave it or it
// was computed from what a caller gave.
func notTooFar(what string, t time.Time) error {
	if t.After(lastInstant) {
		return invalid("%s is after the year 9999: choose an earlier time", what)
	}
	return nil
}

// shownTime is a stored time as it is shown. An earlier version, or whoever
// writes to the database, may have stored one that no JSON can hold.
func shownTime(t time.Time) time.Time {
	switch {
	case t.IsZero():
		return time.Time{}
	case t.After(lastInstant):
		return lastInstant
	case t.Before(firstInstant):
		return firstInstant
	}
	return t
}

// monthsAfter adds months as a calendar does: a month after 31 January is the
// last day of February. time.AddDate would make it a day in March. The result may be
// beyond the year 9999: see shownTime and boundTimes.
func monthsAfter(t time.Time, months int) time.Time {
	t = micros(t)
	year, month, day := t.Date()
	first := time.Date(year, month+time.Month(months), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(day, last)-1)
}

// boundTimes brings the times of a record that is about to be written into the years
// that stores take. Otherwise a key that holds another since an earlier version could
// not even be revoked.
func (r *StoreRecord) boundTimes() {
	times := []*time.Time{&r.CreatedAt, &r.ExpiresAt, &r.RevokedAt, &r.RotateDue}
	for i := range r.Credentials {
		c := &r.Credentials[i]
		times = append(times, &c.NotBefore, &c.NotAfter, &c.LastUsed)
	}
	for _, t := range times {
		*t = shownTime(*t)
	}
}
