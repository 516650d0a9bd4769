module github.com/go-apikey/apikey/internal/integration

go 1.26.0
