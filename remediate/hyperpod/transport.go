package hyperpod

import (
	"context"
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

// observedHTTP is an HTTP client that notes deliveries.
type observedHTTP struct {
	next interface {
		Do(*http.Request) (*http.Response, error)
	}
}

func (o observedHTTP) Do(r *http.Request) (*http.Response, error) {
	d, ok := r.Context().Value(deliveryKey{}).(*delivery)
	if !ok {
		return o.next.Do(r)
	}
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { d.connected.Store(true) }}
	return o.next.Do(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
}
