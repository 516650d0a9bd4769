package admin

import _ "embed"

// description is the API in the OpenAPI format, version 3.1.
//
//go:embed openapi.yaml
var description []byte

func openapi(*call) (answer, error) { return answer{yaml: description}, nil }
