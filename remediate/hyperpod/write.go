package hyperpod

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sagemaker"
	"github.com/aws/aws-sdk-go-v2/service/sagemaker/types"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

// lever is how machines of a cluster are to be repaired.
type lever string

const (
	leverBatch lever = "batch" // NodeRecovery None: nobody but us acts
	leverMarks lever = "marks" // NodeRecovery Automatic: HyperPod acts on marks
)

var instanceIDPattern = regexp.MustCompile(`^i-[a-f0-9]{8}([a-f0-9]{9})?$`)

// Replace asks for a new instance in the place of one; its volumes are
// destroyed. Nil means that HyperPod has accepted.
func (c *Client) Replace(ctx context.Context, call incident.MachineCall) error {
	return c.write(ctx, opBatchReplace, call, func(ctx context.Context) (batchResult, error) {
		answer, err := c.api.BatchReplaceClusterNodes(ctx, &sagemaker.BatchReplaceClusterNodesInput{
			ClusterName: &c.cluster, NodeIds: []string{call.InstanceID},
		}, sendOnce)
		if err != nil {
			return batchResult{}, err
		}
		result := batchResult{successful: answer.Successful}
		for _, f := range answer.Failed {
			result.failed = append(result.failed, nodeFailure{aws.ToString(f.NodeId), string(f.ErrorCode), aws.ToString(f.Message)})
		}
		return result, nil
	})
}

// Reboot asks for a restart of one instance. Nil means that HyperPod has
// accepted.
func (c *Client) Reboot(ctx context.Context, call incident.MachineCall) error {
	return c.write(ctx, opBatchReboot, call, func(ctx context.Context) (batchResult, error) {
		answer, err := c.api.BatchRebootClusterNodes(ctx, &sagemaker.BatchRebootClusterNodesInput{
			ClusterName: &c.cluster, NodeIds: []string{call.InstanceID},
		}, sendOnce)
		if err != nil {
			return batchResult{}, err
		}
		result := batchResult{successful: answer.Successful}
		for _, f := range answer.Failed {
			result.failed = append(result.failed, nodeFailure{aws.ToString(f.NodeId), string(f.ErrorCode), aws.ToString(f.Message)})
		}
		return result, nil
	})
}

// sendOnce takes the SDK's retries away from one call. They would repeat a
// request whose answer was lost, and the service cannot tell the two apart.
func sendOnce(o *sagemaker.Options) { o.Retryer = aws.NopRetryer{} }

// write makes one Batch call for one instance and says what it did.
func (c *Client) write(ctx context.Context, operation string, call incident.MachineCall, send func(context.Context) (batchResult, error)) error {
	err := c.mayWrite(ctx, call)
	if err == nil {
		sending, delivery := withDelivery(ctx)
		done := c.metrics.began(operation)
		var result batchResult
		if result, err = send(sending); err != nil {
			err = requestOutcome(err, delivery.connected.Load())
		} else {
			err = nodeOutcome(call.InstanceID, result)
		}
		done()
		c.inventory.forget()
	}
	switch {
	case err == nil:
		c.metrics.ended(operation, outcomeOK)
		c.logger.Info("HyperPod accepted the call", "operation", operation, "instance", call.InstanceID)
		return nil
	case errors.Is(err, incident.ErrNotExecuted):
		c.metrics.ended(operation, outcomeNotExecuted)
		c.logger.Warn("HyperPod call had no effect", "operation", operation, "instance", call.InstanceID, "err", err)
	default:
		c.metrics.ended(operation, outcomeAmbiguous)
		c.logger.Error("HyperPod call may have had effect", "operation", operation, "instance", call.InstanceID, "err", err)
	}
	return fmt.Errorf("%s %s: %w", operation, call.InstanceID, err)
}

// mayWrite gives an error, always an ErrNotExecuted, unless the call may be
// sent.
func (c *Client) mayWrite(ctx context.Context, call incident.MachineCall) error {
	if !instanceIDPattern.MatchString(call.InstanceID) {
		return fmt.Errorf("%w: %.40q is not an instance id", incident.ErrNotExecuted, call.InstanceID)
	}
	if call.Simulated && !c.loopback {
		return fmt.Errorf("%w: simulated, and the endpoint is not on loopback", incident.ErrNotExecuted)
	}
	lever, err := c.lever.get(ctx, c.readLever)
	if err != nil {
		return fmt.Errorf("%w: which lever is ours is unknown: %w", incident.ErrNotExecuted, err)
	}
	if lever != leverBatch {
		return fmt.Errorf("%w: the cluster's NodeRecovery is Automatic, so marks are the lever and HyperPod acts on them", incident.ErrNotExecuted)
	}
	return nil
}

func (c *Client) readLever(ctx context.Context) (lever, error) {
	answer, err := read(c, opDescribeCluster, func() (*sagemaker.DescribeClusterOutput, error) {
		return c.api.DescribeCluster(ctx, &sagemaker.DescribeClusterInput{ClusterName: &c.cluster})
	})
	if err != nil {
		return "", err
	}
	switch answer.NodeRecovery {
	case types.ClusterNodeRecoveryNone:
		return leverBatch, nil
	case types.ClusterNodeRecoveryAutomatic:
		return leverMarks, nil
	}
	return "", fmt.Errorf("%s: NodeRecovery is %q, neither None nor Automatic", opDescribeCluster, answer.NodeRecovery)
}
