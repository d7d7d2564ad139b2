"""What speaks gRPC: servicers, codec and the generated stubs."""
