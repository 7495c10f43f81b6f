"""Detectors trained and measured: COCO's format, a recipe's training, average precision, pictures of predictions.

COCO_DIR --coco.open_coco--> CocoSplit --samples--> batches --task + train.loop--> a folder --models--> create
                                 |                                                   |
                                 +------ evaluation.evaluate_detector (AP) <---------+--> predict: pictures
"""
