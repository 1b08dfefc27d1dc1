"""All models."""

from mmf.models import tiny as tiny
