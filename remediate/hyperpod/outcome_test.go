package hyperpod

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

// answered is the SDK's error for an answer with an error code.
func answered(status int, code string) error {
	return &smithy.OperationError{ServiceID: "SageMaker", OperationName: opBatchReplace, Err: &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}},
		Err:      &smithy.GenericAPIError{Code: code, Message: "m"},
	}}
}

// undecodable is the SDK's error for an answer that it cannot read.
func undecodable(status int) error {
	return &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}},
		Err:      &smithy.DeserializationError{Err: errors.New("invalid character '<'")},
	}
}

func TestRequestOutcome(t *testing.T) {
	for _, test := range []struct {
		name      string
		err       error
		offline   bool // no connection was ever had
		wantProof bool // that nothing was executed
	}{
		{name: "throttled", err: answered(400, "ThrottlingException"), wantProof: true},
		{name: "throttled with HTTP 429", err: answered(429, "TooManyRequestsException"), wantProof: true},
		{name: "throttled with HTTP 503", err: answered(503, "ThrottlingException")},
		{name: "an unknown word for it", err: answered(400, "ThrottlingMaybe")},
		{name: "invalid", err: answered(400, "ValidationException"), wantProof: true},
		{name: "no such cluster", err: answered(400, "ResourceNotFound"), wantProof: true},
		{name: "no such cluster, HTTP 404", err: answered(404, "ResourceNotFoundException"), wantProof: true},
		{name: "limit exceeded", err: answered(400, "ResourceLimitExceeded"), wantProof: true},
		{name: "not allowed", err: answered(400, "AccessDeniedException"), wantProof: true},
		{name: "not allowed, HTTP 403", err: answered(403, "AccessDeniedException"), wantProof: true},
		{name: "bad signature", err: answered(400, "InvalidSignatureException"), wantProof: true},
		{name: "expired credentials", err: answered(400, "ExpiredTokenException"), wantProof: true},
		{name: "not allowed, HTTP 500", err: answered(500, "AccessDeniedException")},
		{name: "internal failure", err: answered(500, "InternalFailure")},
		{name: "internal failure, HTTP 400", err: answered(400, "InternalFailure")},
		{name: "unavailable", err: answered(503, "ServiceUnavailable")},
		{name: "the server gave up waiting", err: answered(408, "ValidationException")},
		{name: "the request was cut short", err: answered(400, "RequestTimeout")},
		{name: "a redirect", err: answered(307, "ValidationException")},
		{name: "a proxy's page", err: undecodable(403)},
		{name: "half an answer", err: undecodable(200)},
		{name: "a code without an answer", err: &smithy.GenericAPIError{Code: "ValidationException"}},
		{name: "connection reset", err: &smithyhttp.RequestSendError{Err: errors.New("connection reset by peer")}},
		{name: "deadline", err: &smithy.CanceledError{Err: context.DeadlineExceeded}},
		{name: "deadline before a connection", err: &smithy.CanceledError{Err: context.DeadlineExceeded}, offline: true, wantProof: true},
		{name: "connection refused", err: &smithyhttp.RequestSendError{Err: errors.New("connection refused")}, offline: true, wantProof: true},
		{name: "no credentials", err: errors.New("no EC2 IMDS role found"), offline: true, wantProof: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := requestOutcome(test.err, !test.offline)
			if got := errors.Is(err, incident.ErrNotExecuted); got != test.wantProof {
				t.Errorf("requestOutcome(%v, %t) = %v, proves that nothing was done: %t, want %t", test.err, !test.offline, err, got, test.wantProof)
			}
			if !errors.Is(err, test.err) {
				t.Errorf("requestOutcome(%v) = %v, which does not wrap it", test.err, err)
			}
		})
	}
}

func TestNodeOutcome(t *testing.T) {
	const id = "i-0123456789abcdef0"
	refusal := func(code string) batchResult { return batchResult{failed: []nodeFailure{{id, code, "m"}}} }
	const (
		done      = "done"
		nothing   = "certainly nothing"
		ambiguous = "ambiguous"
	)
	for _, test := range []struct {
		name         string
		result       batchResult
		want         string
		wantNotFound bool
	}{
		{name: "accepted", result: batchResult{successful: []string{id}}, want: done},
		{name: "not found", result: refusal("InstanceIdNotFound"), want: nothing, wantNotFound: true},
		{name: "invalid status", result: refusal("InvalidInstanceStatus"), want: nothing},
		{name: "in use", result: refusal("InstanceIdInUse"), want: nothing},
		{name: "internal error", result: refusal("InternalServerError"), want: ambiguous},
		{name: "unknown code", result: refusal("InstanceIdInUseMaybe"), want: ambiguous},
		{name: "no code", result: refusal(""), want: ambiguous},
		{name: "nothing said", result: batchResult{}, want: ambiguous},
		{name: "another instance accepted", result: batchResult{successful: []string{id + "1"}}, want: ambiguous},
		{name: "another instance refused", result: batchResult{failed: []nodeFailure{{id + "1", "InstanceIdInUse", "m"}}}, want: ambiguous},
		{name: "both", result: batchResult{successful: []string{id}, failed: []nodeFailure{{id, "InstanceIdInUse", "m"}}}, want: ambiguous},
		{name: "accepted twice", result: batchResult{successful: []string{id, id}}, want: ambiguous},
		{name: "refused twice", result: batchResult{failed: []nodeFailure{{id, "InstanceIdInUse", "m"}, {id, "InternalServerError", "m"}}}, want: ambiguous},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := nodeOutcome(id, test.result)
			got := ambiguous
			switch {
			case err == nil:
				got = done
			case errors.Is(err, incident.ErrNotExecuted):
				got = nothing
			}
			if got != test.want || errors.Is(err, incident.ErrNotFound) != test.wantNotFound {
				t.Errorf("nodeOutcome(%+v) = %v, %s, want %s", test.result, err, got, test.want)
			}
		})
	}
}
