package store

// PublishMargin exports publishMargin to tests of reads during a publication.
const PublishMargin = publishMargin
