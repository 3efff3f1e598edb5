// Package wire carries the three messages that carry records without taking
// the records apart.
//
// The generated code copies every bytes field into memory of its own, once per
// message and once more per record. Appends and replays are made of little
// else, so for
//
//	AppendStreamRequest    AppendRequest     client writes, server reads
//	AppendStreamResponse   AppendResponse    server writes, client reads
//	ReplayResponse         ReplayResponse    server writes, client reads
//
// this package has types that alias the message's buffer when they are read,
// and hand their bytes to the transport by reference when they are written. All
// other messages, and these three when the generated types are used, go through
// the stock codec: the bytes on the wire are the same, and a test holds the two
// against each other in both directions.
//
// # Using it
//
//	grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec()))
//	grpc.NewClient(target, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec())))
//
//	var req wire.AppendRequest
//	for {
//		if err := stream.RecvMsg(&req); err != nil { ... }
//		... req.Batches[i].Run ...
//		req.Release()
//	}
//
// # Who owns the bytes
//
// A message that was read aliases one buffer, which Release gives back; nothing
// that was in the message may be used afterwards, and reading into a message
// releases what it held. Messages keep the capacity of their slices, so a loop
// that reuses one allocates nothing per message once it is warm. The generated
// parts (binds, bounds, refusals) are copies and outlive the message.
//
// A message that was written belongs to the caller again when SendMsg returns.
// Bytes that have a Buffer go by reference: the transport holds the Buffer until
// they are on their way, and the caller must not change them before that. Bytes
// that have none are copied before SendMsg returns.
package wire
