package integration

func rotateAt(args []string) error { return nil }
func verifyAt(args []string) error { return nil }
