package hyperpod

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

// throttles are the error codes by which AWS services refuse a request for its
// rate.
var throttles = map[string]bool{
	"RequestLimitExceeded":      true,
	"RequestThrottled":          true,
	"RequestThrottledException": true,
	"SlowDown":                  true,
	"ThrottledException":        true,
	"Throttling":                true,
	"ThrottlingException":       true,
	"TooManyRequestsException":  true,
}

// refusals are the error codes, besides throttles, that say that a request was
// turned away before anything was done: SageMaker's own and the ones common to
// AWS services. A code that is not here proves nothing.
var refusals = map[string]bool{
	"AccessDenied":                        true,
	"AccessDeniedException":               true,
	"ConflictException":                   true,
	"ExpiredToken":                        true,
	"ExpiredTokenException":               true,
	"IncompleteSignature":                 true,
	"IncompleteSignatureException":        true,
	"InvalidAction":                       true,
	"InvalidClientTokenId":                true,
	"InvalidSignatureException":           true,
	"MissingAuthenticationToken":          true,
	"MissingAuthenticationTokenException": true,
	"NotAuthorized":                       true,
	"OptInRequired":                       true,
	"RequestExpired":                      true,
	"ResourceInUse":                       true,
	"ResourceLimitExceeded":               true,
	"ResourceNotFound":                    true,
	"ResourceNotFoundException":           true,
	"SerializationException":              true,
	"SignatureDoesNotMatch":               true,
	"UnknownOperationException":           true,
	"UnrecognizedClientException":         true,
	"ValidationError":                     true,
	"ValidationException":                 true,
}

// refused reports whether an API error proves that the request was turned away:
// a known code under an HTTP status of the caller's class. The same code under
// a status of the server's class contradicts itself and proves nothing, and
// neither does 408, with which a server gives up waiting.
func refused(err error) bool {
	problem, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return false
	}
	status := httpStatus(err)
	return status >= 400 && status < 500 && status != http.StatusRequestTimeout &&
		(throttles[problem.ErrorCode()] || refusals[problem.ErrorCode()])
}

// httpStatus is the status of the answer that err came with, 0 for none.
func httpStatus(err error) int {
	if response, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		return response.HTTPStatusCode()
	}
	return 0
}

// requestOutcome says what a Batch call that failed as a whole has done:
// nothing for certain ([incident.ErrNotExecuted]), or nobody knows.
func requestOutcome(err error, connected bool) error {
	if !connected || refused(err) {
		return fmt.Errorf("%w: %w", incident.ErrNotExecuted, err)
	}
	return fmt.Errorf("outcome unknown: %w", err)
}

// batchResult is the answer to a Batch call, of either operation.
type batchResult struct {
	successful []string
	failed     []nodeFailure
}

// nodeFailure is why one instance of a batch was not worked on.
type nodeFailure struct{ instanceID, code, message string }

// nodeOutcome says what an answered Batch call has done to one instance. An
// answer that does not mention it, or that says two things about it, is no
// answer.
func nodeOutcome(instanceID string, result batchResult) error {
	successes := 0
	for _, id := range result.successful {
		if id == instanceID {
			successes++
		}
	}
	var failures []nodeFailure
	for _, f := range result.failed {
		if f.instanceID == instanceID {
			failures = append(failures, f)
		}
	}
	switch {
	case successes == 1 && len(failures) == 0:
		return nil
	case successes > 0 || len(failures) > 1:
		return errors.New("outcome unknown: the answer contradicts itself about the instance")
	case len(failures) == 0:
		return errors.New("outcome unknown: the answer does not mention the instance")
	}
	problem := fmt.Errorf("%s: %s", failures[0].code, failures[0].message)
	switch failures[0].code {
	case "InstanceIdNotFound":
		return fmt.Errorf("%w: %w: %w", incident.ErrNotExecuted, incident.ErrNotFound, problem)
	case "InvalidInstanceStatus", "InstanceIdInUse":
		return fmt.Errorf("%w: %w", incident.ErrNotExecuted, problem)
	}
	return fmt.Errorf("outcome unknown: %w", problem)
}
