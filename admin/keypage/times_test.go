package keypage

import (
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/stretchr/testify/require"
)

// Of each day in zones whose clock is changed, also at midnight: the stored instant is the
// day's end, found by walking, and the day shown is the day chosen.
func TestAnExpiryIsTheEndOfItsDay(t *testing.T) {
	days := 0
	for _, name := range []string{
		"UTC", "Asia/Jakarta", "Asia/Dhaka", "Pacific/Kiritimati", "America/Los_Angeles", "America/Santiago", "Asia/Beirut", "Africa/Cairo",
		"America/Havana", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Chatham", "Africa/Casablanca", "Europe/London", "America/Asuncion", "Pacific/Apia",
	} {
		zone, err := time.LoadLocation(name)
		require.NoError(t, err)
		for _, year := range []int{2024, 2026, 2027, 2037} {
			for d := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC); d.Year() == year; d = d.AddDate(0, 0, 1) {
				day := d.Format("2006-01-02")
				end, ok := endOf(day, zone)
				require.True(t, ok)
				require.Equal(t, day, end.Add(-time.Nanosecond).In(zone).Format("2006-01-02"), "%s %s: the last instant", name, day)
				// No later instant is of that day: a clock that is put back shows it twice.
				for later := end; later.Before(end.Add(3 * time.Hour)); later = later.Add(15 * time.Minute) {
					require.Greater(t, later.In(zone).Format("2006-01-02"), day, "%s %s", name, day)
				}
				shown, whole := dayOf(end, zone)
				require.True(t, whole)
				require.Equal(t, day, shown, name)
				days++
			}
		}
	}
	t.Logf("%d days", days)
}

func TestNoDays(t *testing.T) {
	for _, text := range []string{"", "2027-02-29", "10000-01-01", "9999-12-31", "2027-2-1", "2027-13-01", "2027-01-32", "27-01-01", "2027-01-01T00:00", " 2027-01-01", "2027/01/01", "-001-01-01", "২০২৭-০১-০১"} {
		_, ok := endOf(text, time.UTC)
		require.False(t, ok, text)
	}
	end, ok := endOf("2028-02-29", time.UTC)
	require.True(t, ok)
	require.Equal(t, time.Date(2028, 3, 1, 0, 0, 0, 0, time.UTC), end.UTC())
	for _, within := range []time.Duration{time.Microsecond, time.Second, 12 * time.Hour, 24*time.Hour - time.Microsecond} {
		_, whole := dayOf(end.Add(within), time.UTC)
		require.False(t, whole, within)
	}
}

// A time that a clock skips is none, and one that it shows twice is two, in their order.
func TestInstantsOfAClock(t *testing.T) {
	for _, c := range []struct {
		zone, local string
		want        []string
	}{
		{"UTC", "2027-03-28T02:30", []string{"2027-03-28T02:30:00Z"}},
		{"UTC", "2027-03-28T02:30:15", []string{"2027-03-28T02:30:15Z"}},
		{"America/Los_Angeles", "2027-03-14T02:30", nil},
		{"America/Los_Angeles", "2027-03-14T03:00", []string{"2027-03-14T10:00:00Z"}},
		{"America/Los_Angeles", "2027-11-07T01:30", []string{"2027-11-07T08:30:00Z", "2027-11-07T09:30:00Z"}},
		{"America/Santiago", "2027-09-05T00:30", nil},
		{"America/Santiago", "2027-04-03T23:30", []string{"2027-04-04T02:30:00Z", "2027-04-04T03:30:00Z"}},
		{"Asia/Beirut", "2027-03-28T00:30", nil},
		{"America/Havana", "2027-03-14T00:30", nil},
		{"America/Havana", "2027-11-07T00:30", []string{"2027-11-07T04:30:00Z", "2027-11-07T05:30:00Z"}},
		{"Australia/Lord_Howe", "2027-04-04T01:45", []string{"2027-04-03T14:45:00Z", "2027-04-03T15:15:00Z"}},
		{"Australia/Lord_Howe", "2027-10-03T02:15", nil},
		{"Pacific/Kiritimati", "2027-01-01T00:00", []string{"2026-12-31T10:00:00Z"}},
		{"Asia/Dhaka", "2027-01-01T00:00", []string{"2026-12-31T18:00:00Z"}},
	} {
		zone, err := time.LoadLocation(c.zone)
		require.NoError(t, err)
		found, ok := instants(c.local, zone)
		require.True(t, ok)
		var got []string
		for _, f := range found {
			require.Equal(t, c.local[:16], f.Format("2006-01-02T15:04"))
			got = append(got, f.UTC().Format(time.RFC3339))
		}
		require.Equal(t, c.want, got, "%s %s", c.zone, c.local)
	}
	for _, text := range []string{"", "now", "2027-02-29T00:00", "10000-01-01T00:00", "2027-01-01", "2027-01-01T25:00", "2027-01-01T00:00Z"} {
		_, ok := instants(text, time.UTC)
		require.False(t, ok, text)
	}
}
