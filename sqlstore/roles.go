package sqlstore

import "embed"

//go:embed roles
var roles embed.FS

// Roles returns SQL for an administrator, which makes three roles with the least
// that each needs: "verifier" reads, and writes when a credential was last used
// and its renewed hash; "manager" does all that a Manager and Purge do, and can
// only add to the activity log; "auditor" reads. Their names begin with the
// dialect's prefix. None may create tables, so run [Store.Migrate] as their owner
// first; as any of the roles it finds nothing to do.
//
// It is empty where the engine has no roles, as SQLite has none, and for a
// Dialect that [New] refuses.
func Roles(d Dialect) string {
	if d.validate() != nil {
		return ""
	}
	text, err := roles.ReadFile("roles/" + d.engine.name() + ".sql")
	if err != nil {
		return ""
	}
	return d.named(string(text))
}
