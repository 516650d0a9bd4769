package keypage_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin/keypage"
)

// The fields that Config names are written, read and cleared; a rename changes none of
// them, and metadata that Config does not name is never seen.
func TestFields(t *testing.T) {
	e := newEnv(t, keypage.Config{
		Fields: []keypage.Field{keypage.Networks, keypage.Origins, keypage.Rotation}, Metadata: []string{"team", "note"},
	})
	e.get("/new").form("Create key").set("name", "Shop").set("networks", "203.0.113.0/24, 198.51.100.7\r\n2001:db8::/32").
		set("origins", "https://shop.example\nhttps://www.shop.example").set("rotate_months", " 3 ").set("metadata.team", "<b>").
		press("Create key").shows(200, "API key created")
	k := e.keys()[0]
	networks := []string{}
	for n := range k.Networks.All() {
		networks = append(networks, n.String())
	}
	slices.Sort(networks)
	require.Equal(t, []string{"198.51.100.7/32", "2001:db8::/32", "203.0.113.0/24"}, networks)
	require.Equal(t, []string{"https://shop.example", "https://www.shop.example"}, slices.Sorted(k.Origins.All()))
	require.Equal(t, 3, k.RotateMonths)
	require.Equal(t, "<b>", k.Metadata.Get("team"))
	require.Equal(t, 1, k.Metadata.Len())

	// The program's own metadata, and a value that a field of one line cannot hold.
	_, err := e.open().Update(e.as(anna), apikey.UpdateRequest{Key: k.ID, Metadata: apikey.Set(map[string]string{"team": "<b>", "note": "a\nb", "crm": "hidden-7"})})
	require.NoError(t, err)
	before := e.key(k.ID)
	edit := func() *form { return e.get(e.keyPath(k.ID, "/edit")).lacks("hidden-7").form("Save") }
	edit().set("name", "Renamed").set("metadata.note", "ab").press("Save").shows(200, "Saved.")
	after := e.key(k.ID)
	require.Equal(t, "Renamed", after.Name)
	require.Equal(t, [3]any{before.Networks, before.Origins, before.Metadata}, [3]any{after.Networks, after.Origins, after.Metadata})
	require.Equal(t, before.RotateDue, after.RotateDue, "the reminder counts from when it was set")

	// Each field alone, and all cleared: the other metadata stays.
	edit().set("metadata.team", "payments").press("Save").shows(200, "Saved.")
	require.Equal(t, map[string]string{"team": "payments", "note": "a\nb", "crm": "hidden-7"}, metadataOf(e.key(k.ID)))
	edit().set("networks", " \r\n").set("origins", "").set("rotate_months", "").set("metadata.team", "").set("metadata.note", "").press("Save").shows(200, "Saved.")
	after = e.key(k.ID)
	require.Zero(t, after.Networks.Len()+after.Origins.Len()+after.RotateMonths)
	require.Equal(t, map[string]string{"crm": "hidden-7"}, metadataOf(after))
	edit().set("networks", "10.0.0.0/8").set("rotate_months", "12").press("Save").shows(200, "Saved.", "10.0.0.0/8")

	// What is wrong is said at its field, all at once, and nothing typed is lost.
	for _, path := range []string{"/new", e.keyPath(k.ID, "/edit")} {
		button := map[bool]string{true: "Create key", false: "Save"}[path == "/new"]
		a := e.get(path).form(button).set("name", "Bad").set("networks", "10.0.0.0/33 nonsense fe80::1%eth0").set("origins", "ftp://x").set("rotate_months", "often").
			set("metadata.team", "kept").press(button).shows(400, "“10.0.0.0/33” is not", "“nonsense” is not", "“fe80::1%eth0” is not", "does not have the form")
		require.Contains(t, a.form(button).value("networks"), "nonsense")
		require.Equal(t, "kept", a.form(button).value("metadata.team"))
		a = e.get(path).form(button).set("name", "Bad").set("origins", "shop.example/path").set("rotate_months", "999").press(button).shows(400, "from 0 to 120")
		require.Equal(t, 2, strings.Count(a.text, `aria-invalid="true"`))
		e.get(path).form(button).set("name", "Bad").set("metadata.team", strings.Repeat("x", 10_000)).press(button).shows(400, "“team” is too long")
	}
	require.Len(t, e.keys(), 1)
	require.Equal(t, "Renamed", e.key(k.ID).Name)

	// Without Config, what is sent is not read.
	bare := newEnv(t, keypage.Config{})
	q := bare.get("/new").lacks("Networks").form("Create key").set("name", "Shop").request("Create key")
	q.form.Set("networks", "10.0.0.0/8")
	q.form.Set("metadata.crm", "mine")
	bare.do(q).shows(200, "API key created")
	require.Zero(t, bare.keys()[0].Networks.Len()+bare.keys()[0].Metadata.Len())

	for _, c := range []keypage.Config{{Fields: []keypage.Field{"colour"}}, {Fields: []keypage.Field{keypage.Networks, keypage.Networks}}, {Metadata: []string{""}}, {Metadata: []string{"a", "a"}}} {
		c.Manager, c.Actor, c.Path = bare.open(), actorIn, "/keys"
		_, err := keypage.New(c)
		require.ErrorContains(t, err, "Config.")
	}
}

// Keys that can be revealed: New refuses them where the Manager reveals none, and a mode in
// which it does not has keys that are shown once. A problem of a field that the form does
// not have is shown above it.
func TestRecoverableNeedsAKEK(t *testing.T) {
	noKEK := func(_ *apikey.Settings, c *apikey.ManagerConfig) { c.KEKs = nil; delete(c.Factors, "totp") }
	e := newEnv(t, keypage.Config{}, noKEK)
	for _, r := range []keypage.Recoverable{keypage.Always, keypage.Ask} {
		c := e.config
		c.Recoverable = r
		_, err := keypage.New(c)
		require.ErrorContains(t, err, "ManagerConfig.KEKs")
	}

	e = newEnv(t, keypage.Config{Recoverable: keypage.Always}, guard([]string{"password"}, apikey.ActionReveal), func(_ *apikey.Settings, c *apikey.ManagerConfig) {
		guarded := c.StepUp
		c.InsecureRevealWithoutStepUp = false
		c.StepUp = func(a apikey.Action, m apikey.Mode) []string {
			if m == apikey.Test {
				return nil
			}
			return guarded(a, m)
		}
	})
	e.get("/new?mode=live").form("Create key").set("name", "Live").press("Create key").shows(200, "It can be revealed again later")
	e.get("/new?mode=test").form("Create key").set("name", "Test").press("Create key").shows(200, "It is shown this once only")

}

// A problem of a field that a form does not have is shown above it, in each layout: else the
// form would come again and say nothing.
func TestProblemsAreAllShown(t *testing.T) {
	for layout, button := range map[keypage.Layout]string{keypage.OneList: "Create key", keypage.SinglePair: "Get App Secret"} {
		e := newEnv(t, keypage.Config{Layout: layout}, func(s *apikey.Settings, c *apikey.ManagerConfig) {
			c.Limits.Abilities = 1
			s.Catalog = apikey.MustCatalog(apikey.CatalogEntry{Scope: "payment:charge"}, apikey.CatalogEntry{Scope: "payment:refund"})
		})
		if layout == keypage.SinglePair {
			e.get("").press(button).shows(409, "These are too many: at most 1.")
			continue
		}
		q := e.get("/new").form(button).set("name", "Shop").request(button)
		q.form.Set("idempotent", strings.Repeat("x", 300))
		e.do(q).shows(400, "This is too long: at most 255 bytes.")
	}
}

func metadataOf(k apikey.Info) map[string]string {
	all := map[string]string{}
	for name, value := range k.Metadata.All() {
		all[name] = value
	}
	return all
}
