// Package httpclient makes the clients with which the daemons call each other
// and the metric store: mutual TLS from files, read at the first call and again
// whenever they change, so that a rotated certificate needs no restart and one
// that is mounted late does not keep a daemon from observing. It refuses to
// follow redirects, to use a proxy it was not told about, and to skip the
// verification of a server.
package httpclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"github.com/prometheus/common/config"
)

// TLS is how a client proves who it is and knows who it speaks to.
type TLS struct {
	// CAFile holds the authorities that may vouch for the server; empty for the
	// system's.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile are the client's own identity; both or neither.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// ServerName is expected in the server's certificate; empty for the host of
	// the URL.
	ServerName string `yaml:"server_name"`
}

// Validate names what is wrong; field is the name of the block in the configuration.
func (t TLS) Validate(field string) error {
	if (t.CertFile == "") != (t.KeyFile == "") {
		return fmt.Errorf("%s: cert_file and key_file go together", field)
	}
	return nil
}

// ValidateURL accepts an absolute http or https URL without credentials in it;
// field names it in the error.
func ValidateURL(field, raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		// The error of url.Parse repeats the URL, which may hold a password.
		return fmt.Errorf("%s: not a URL", field)
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%s: must begin with http:// or https://", field)
	case u.Host == "":
		return fmt.Errorf("%s: has no host", field)
	case u.User != nil:
		return fmt.Errorf("%s: must not hold a user name or password", field)
	}
	return nil
}

// Wrap puts one more layer, such as request signing, around a transport. It is
// called at the first request, and again at each later one until it succeeds.
type Wrap func(ctx context.Context, next http.RoundTripper) (http.RoundTripper, error)

// New makes a client. Nothing is read before its first request; what keeps the
// transport from being built is that request's error. The name is for the
// transport's own connection metrics.
func New(name string, t TLS, wraps ...Wrap) *http.Client {
	return &http.Client{
		Transport: &lazyTransport{build: func(ctx context.Context) (http.RoundTripper, error) {
			rt, err := config.NewRoundTripperFromConfigWithContext(ctx, config.HTTPClientConfig{TLSConfig: config.TLSConfig{
				CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName,
			}}, name)
			if err != nil {
				return nil, fmt.Errorf("set up TLS: %w", err)
			}
			for _, wrap := range wraps {
				if rt, err = wrap(ctx, rt); err != nil {
					return nil, err
				}
			}
			return rt, nil
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// lazyTransport is a transport that is built when it is first needed.
type lazyTransport struct {
	build func(context.Context) (http.RoundTripper, error)

	mu sync.Mutex
	rt http.RoundTripper // nil until build succeeded
}

func (l *lazyTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	rt, err := l.transport(req.Context())
	if err != nil {
		if req.Body != nil {
			err = errors.Join(err, req.Body.Close())
		}
		return nil, err
	}
	return rt.RoundTrip(req)
}

func (l *lazyTransport) transport(ctx context.Context) (http.RoundTripper, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rt == nil {
		rt, err := l.build(ctx)
		if err != nil {
			return nil, err
		}
		l.rt = rt
	}
	return l.rt, nil
}
