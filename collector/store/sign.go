package store

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/sigv4"

	"github.com/evenkeel/evenkeel/internal/httpclient"
)

// Sign signs requests with SigV4, as Managed Prometheus asks for. Credentials
// are fetched by the first request, not at start: fetching takes seconds and
// fails where the instance's metadata is not up yet.
func Sign(c *sigv4.SigV4Config) httpclient.Wrap {
	return func(ctx context.Context, next http.RoundTripper) (http.RoundTripper, error) {
		rt, err := sigv4.NewSigV4RoundTripper(c, next, sigv4.WithContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("set up SigV4: %w", err)
		}
		return rt, nil
	}
}
