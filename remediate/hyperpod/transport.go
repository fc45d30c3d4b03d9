package hyperpod

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// delivery notes whether any part of a request may have left this process.
type delivery struct{ connected atomic.Bool }

type deliveryKey struct{}

// withDelivery gives a context whose requests are noted. A request that never
// had a connection (no credentials, refused dial, failed TLS handshake, ended
// context) was certainly not executed; with one, nobody here can know.
func withDelivery(ctx context.Context) (context.Context, *delivery) {
	d := new(delivery)
	return context.WithValue(ctx, deliveryKey{}, d), d
}

// doer is what the SDK needs of an HTTP client.
type doer interface {
	Do(*http.Request) (*http.Response, error)
}

// observedHTTP is an HTTP client that notes deliveries and loses no answers.
type observedHTTP struct{ next doer }

// Do hides the body's WriteTo. The SDK closes the body as soon as an answer
// begins, and smithy-go's WriteTo of a closed body gives io.EOF as an error; if
// net/http is just about to look whether the body has ended, it takes that for a
// failed write and closes the connection under the answer. A closed body that
// can only be read has ended, and all is well.
func (o observedHTTP) Do(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	if d, ok := ctx.Value(deliveryKey{}).(*delivery); ok {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotConn: func(httptrace.GotConnInfo) { d.connected.Store(true) },
		})
	}
	sent := r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		sent.Body = struct{ io.ReadCloser }{r.Body}
	}
	return o.next.Do(sent)
}
