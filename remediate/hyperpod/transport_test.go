package hyperpod

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// TestClosedBodyIsNoFailedWrite does to a body of the SDK's what net/http does
// when an answer overtakes the end of the request: look whether it has ended.
func TestClosedBodyIsNoFailedWrite(t *testing.T) {
	request, err := smithyhttp.NewStackRequest().(*smithyhttp.Request).SetStream(strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	built := request.Build(t.Context())
	looked := false
	next := doerFunc(func(r *http.Request) (*http.Response, error) {
		if err := built.Body.Close(); err != nil {
			t.Fatal(err)
		}
		looked = true
		if n, err := io.Copy(io.Discard, r.Body); n != 0 || err != nil {
			t.Errorf("io.Copy() of a closed body = %d, %v, want 0, nil", n, err)
		}
		return nil, errors.New("no answer")
	})
	if _, err := (observedHTTP{next}).Do(built); err == nil || !looked {
		t.Errorf("Do() = %v, looked at the body: %t", err, looked)
	}
}

type doerFunc func(*http.Request) (*http.Response, error)

func (f doerFunc) Do(r *http.Request) (*http.Response, error) { return f(r) }
