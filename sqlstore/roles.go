package sqlstore

import "embed"

//go:embed roles
var roles embed.FS

// Roles returns SQL that an administrator can run to make three roles, each with the
// least rights that it needs. "verifier" reads, and writes the last use of a credential
// and its renewed hash. "manager" can do everything that a Manager and Purge do, and can
// only add to the activity log. "auditor" reads. The names begin with the dialect's
// prefix. No role may create tables, so run [Store.Migrate] as the owner first; as any of
// the roles Migrate finds nothing to do.
//
// Roles returns "" if the engine has no roles, such as SQLite, and for a Dialect that
// [New] refuses.
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
