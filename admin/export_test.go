package admin

// Patterns are the routes, for tests.
func Patterns() (patterns []string) {
	for _, r := range routes {
		patterns = append(patterns, r.pattern)
	}
	return patterns
}
