package store

// PublishMargin is for the tests of reads during a publication.
const PublishMargin = publishMargin
