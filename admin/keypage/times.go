package keypage

import (
	"fmt"
	"html"
	"html/template"
	"time"
)

// An expiry is a day, and means its end in the account's zone: the stored instant is the
// beginning of the next day, and is shown as the day again.

// startOf is the first instant of a day in a zone. Where a change of the clock skips
// midnight, that is later than 0:00.
func startOf(year int, month time.Month, day int, zone *time.Location) time.Time {
	noon := time.Date(year, month, day, 12, 0, 0, 0, zone)
	t := time.Date(year, month, day, 0, 0, 0, 0, zone)
	for t.Day() != noon.Day() { // time.Date may go to either side of a gap
		t = t.Add(time.Minute)
	}
	for before := t.Add(-time.Minute); before.Day() == noon.Day(); before = t.Add(-time.Minute) {
		t = before // a clock that is put back across midnight has it twice
	}
	return t
}

// endOf is the instant that is stored for an expiry on a day.
func endOf(day string, zone *time.Location) (time.Time, bool) {
	d, err := time.ParseInLocation("2006-01-02", day, time.UTC)
	if err != nil || d.Year() > 9998 {
		return time.Time{}, false
	}
	return startOf(d.Year(), d.Month(), d.Day()+1, zone), true
}

// dayOf is the day whose end an expiry is; false: it is within a day.
func dayOf(t time.Time, zone *time.Location) (string, bool) {
	last := t.Add(-time.Nanosecond).In(zone)
	end, _ := endOf(last.Format("2006-01-02"), zone)
	return last.Format("2006-01-02"), end.Equal(t)
}

// instants are those that a clock in the zone shows as a date and a time: none if the clock
// skips it, two if it is put back.
func instants(local string, zone *time.Location) (found []time.Time, ok bool) {
	var wall time.Time
	var err error
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if wall, err = time.ParseInLocation(layout, local, time.UTC); err == nil {
			break
		}
	}
	if err != nil || wall.Year() > 9998 {
		return nil, false
	}
	// A zone is at most a day from UTC, and each offset that it has around then is tried.
	seen := map[int]bool{}
	for at := wall.Add(-26 * time.Hour); at.Before(wall.Add(26 * time.Hour)); at = at.Add(time.Hour) {
		_, offset := at.In(zone).Zone()
		if seen[offset] {
			continue
		}
		seen[offset] = true
		t := wall.Add(-time.Duration(offset) * time.Second)
		if _, have := t.In(zone).Zone(); have == offset {
			found = append(found, t.In(zone))
		}
	}
	if len(found) == 2 && found[1].Before(found[0]) {
		found[0], found[1] = found[1], found[0]
	}
	return found, true
}

// date writes a day for people: 31 December 2099.
func (v *visit) date(t time.Time) string {
	t = t.In(v.zone)
	return v.T("date", "day", t.Day(), "month", v.T(fmt.Sprintf("month.%d", t.Month())), "year", t.Year())
}

// dateTime is date with the time of day and the zone.
func (v *visit) dateTime(t time.Time) string {
	t = t.In(v.zone)
	return v.T("date_time", "date", v.date(t), "time", v.text.digits(t.Format("15:04")), "zone", t.Format("MST"))
}

// When writes a time as an element: how far it is away, and on hover the time itself. An
// expiry is written as its day.
func (v *visit) When(t time.Time) template.HTML {
	if t.IsZero() {
		return ""
	}
	return element(t, v.relative(t), v.dateTime(t))
}

// Exactly writes a time as an element, in full.
func (v *visit) Exactly(t time.Time) template.HTML {
	return element(t, v.dateTime(t), v.relative(t))
}

// Expiry writes the day at whose end a key expires or, if it expires within a day, the time.
func (v *visit) Expiry(t time.Time) template.HTML {
	if _, whole := dayOf(t, v.zone); whole {
		return element(t, v.date(t.Add(-time.Nanosecond)), v.relative(t))
	}
	return element(t, v.dateTime(t), v.relative(t))
}

func element(t time.Time, shown, hover string) template.HTML {
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`, t.UTC().Format(time.RFC3339), html.EscapeString(hover), html.EscapeString(shown)))
}

// relative says how far a time is from now: in 3 days, 2 hours ago.
func (v *visit) relative(t time.Time) string {
	d := t.Sub(v.Now())
	name := "in"
	if d <= 0 {
		d, name = -d, "ago"
	}
	if d < time.Minute && name == "ago" {
		return v.T("just_now")
	}
	return v.T(name, "time", v.span(d))
}

// span writes a duration in its largest unit.
func (v *visit) span(d time.Duration) string {
	for _, unit := range []struct {
		name string
		of   time.Duration
	}{{"years", 365 * 24 * time.Hour}, {"months", 30 * 24 * time.Hour}, {"days", 24 * time.Hour}, {"hours", time.Hour}, {"minutes", time.Minute}} {
		if d >= unit.of {
			return v.text.count("span."+unit.name, int(d/unit.of))
		}
	}
	return v.text.count("span.seconds", max(1, int((d+time.Second-1)/time.Second)))
}
